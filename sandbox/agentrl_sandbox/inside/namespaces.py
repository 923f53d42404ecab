"""Namespaces and the private file tree, for the zygote once and for each session child.

As root the namespaces are made directly; otherwise inside a user namespace that maps one ordinary
user. The tree is a small read-only tmpfs with read-only binds of what `visible` names; each session
adds one tmpfs of its own. There is no /proc and no /sys in it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence

from agentrl_sandbox.inside import kernel, visible

INNER_USER = 1000
BOX = "/box"
WORK = f"{BOX}/work"
"""The work folder as a session sees it. It is a mount point, and Landlock does not see rules on
those when another work folder covers it: they are put on the folder above."""
INODES = 16_384
"""Files and folders one work folder may hold."""
_STAGE = "/proc"

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_ALL = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWNET
)


def _map_user(uid: int, gid: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INNER_USER} {uid} 1"),
        ("gid_map", f"{INNER_USER} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def enter() -> str:
    """Leave the machine's namespaces; the next fork is pid 1. Says how: `root` or `user`.

    Raises OSError when neither way is open.
    """
    how = "root"
    try:
        kernel.unshare(_ALL)
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        kernel.unshare(kernel.CLONE_NEWUSER | _ALL)
        _map_user(uid, gid)
        how = "user"
    kernel.mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    socket.sethostname("sandbox")
    return how


def _show(source: str, root: str, shown: Sequence[str]) -> None:
    target = root + source
    real = os.path.realpath(source)
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if real != source and any(real.startswith(other + os.sep) for other in shown):
        os.symlink(real, target)
        return
    if os.path.isdir(source):
        os.mkdir(target, mode=0o755)
    else:
        with open(target, "xb"):
            pass
    kernel.mount(source, target, None, _MS_BIND | _MS_REC)


def _read_only(target: str) -> None:
    """Make a mount and everything mounted below it read-only and deaf to set-user-id bits."""
    attributes = struct.pack("=QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    kernel.syscall("mount_setattr", _AT_FDCWD, target, _AT_RECURSIVE, buffer, len(attributes))


def build_root(readable: Sequence[str]) -> None:
    """Replace this process's file tree by the private one; /proc is gone afterwards.

    `readable`: see `visible.readable`. Raises OSError.
    """
    root = _STAGE
    os.umask(0o022)
    kernel.mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.makedirs(root + WORK)
    devices = [d for d in (*visible.READ_DEVICES, *visible.WRITE_DEVICES) if os.path.exists(d)]
    for source in (*readable, *devices):
        _show(source, root, readable)
    if not os.path.lexists(root + "/tmp"):
        os.symlink(WORK, root + "/tmp")
    _read_only(root)
    os.chdir(root)
    kernel.syscall("pivot_root", ".", ".")
    kernel.call("umount2", ".", _MNT_DETACH)
    os.chdir("/")


def session_mounts(uid: int, gid: int, size_mb: int) -> None:
    """Give this process a mount namespace with an empty work folder that no one else sees."""
    kernel.unshare(kernel.CLONE_NEWNS)
    _mount_work(uid, gid, size_mb)


def mount_for(pidfd: int, own: int, uid: int, gid: int, size_mb: int) -> None:
    """Put an empty work folder over the one that a copy's mount namespace began with.

    `own`: this process's mount namespace, to come back to. Raises OSError.
    """
    kernel.setns(pidfd, kernel.CLONE_NEWNS)
    try:
        _mount_work(uid, gid, size_mb)
    finally:
        kernel.setns(own, kernel.CLONE_NEWNS)


def _mount_work(uid: int, gid: int, size_mb: int) -> None:
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    options = f"size={size_mb}m,nr_inodes={INODES},mode=700,uid={uid},gid={gid}"
    kernel.mount("tmpfs", WORK, "tmpfs", flags, options)
