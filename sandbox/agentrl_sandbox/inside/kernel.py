"""The C library through ctypes: the few calls that Python does not wrap, raising `OSError`."""

from __future__ import annotations

import ctypes
import os
import platform
import sys

LINUX = sys.platform == "linux"
ARCH = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)

CLONE_PARENT = 0x00008000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_SYSCALLS = {
    "x86_64": {
        "clone": 56,
        "tgkill": 234,
        "pivot_root": 155,
        "seccomp": 317,
        "mount_setattr": 442,
        "close_range": 436,
    },
    "aarch64": {
        "clone": 220,
        "tgkill": 131,
        "pivot_root": 41,
        "seccomp": 277,
        "mount_setattr": 442,
        "close_range": 436,
    },
}
_LANDLOCK = {
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _encoded(value: object) -> object:
    if isinstance(value, str):
        return os.fsencode(value)
    return ctypes.c_long(value) if isinstance(value, int) else value


def call(name: str, *arguments: object) -> int:
    """Call a C library function that answers -1 on failure. Raises OSError naming the call."""
    function = getattr(_libc, name)
    return _check(function(*(_encoded(a) for a in arguments)), name)


def number_of(name: str) -> int:
    """The number of a system call. Raises OSError for an unknown machine type."""
    numbers = _SYSCALLS.get(ARCH)
    if not LINUX or numbers is None:
        raise OSError(f"{name}: no system call table for {sys.platform} on {ARCH}")
    return numbers.get(name) or _LANDLOCK[name]


def syscall(name: str, *arguments: object) -> int:
    """Make a system call by name. Raises OSError, also for an unknown machine type."""
    number = number_of(name)
    return _check(_libc.syscall(ctypes.c_long(number), *(_encoded(a) for a in arguments)), name)


def prctl(option: int, *arguments: object) -> int:
    """`prctl(2)`, unused arguments zero."""
    padded = [*arguments, *[0] * (4 - len(arguments))]
    return call("prctl", option, *padded)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`."""
    call("unshare", flags)


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`."""
    call("setns", fd, kind)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """`mount(2)`."""
    call("mount", source, target, kind, flags, data)


def die_with_parent(parent: int) -> None:
    """Be killed when the parent is; `parent` is its pid as seen from here (0 across a pid ns).

    Must come after every change of user or capabilities, which clears the setting.
    """
    if not LINUX:
        return
    prctl(PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)
