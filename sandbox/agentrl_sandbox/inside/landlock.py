"""Landlock: what a process and its children may open, whatever their user (kernel 5.13 on).

Access rights and structures are those of `linux/landlock.h`; a kernel of an older ABI is asked
only for what it knows. Network and scope bits are taken where there are any.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Sequence

from agentrl_sandbox.inside import kernel

_VERSION_QUERY = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_REMOVE = 1 << 4 | 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM, _REFER = 1 << 7, 1 << 8, 1 << 10, 1 << 12, 1 << 13
_READ = _READ_FILE | _READ_DIR
_OWN = (
    _READ | _WRITE_FILE | _TRUNCATE | _REMOVE
    | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _MAKE_SYM | _REFER
)  # fmt: skip
_FILE_ONLY = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV | 1
_NET_ALL = 0b11
_SCOPE_ALL = 0b11


def abi() -> int:
    """Landlock ABI of this kernel, 0 when there is none or it is switched off."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, 0, _VERSION_QUERY)
    except OSError:
        return 0


def _handled(version: int) -> int:
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    return (1 << bits) - 1


def _ruleset(version: int) -> int:
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", _handled(version), _NET_ALL, _SCOPE_ALL)[:size]
    return kernel.syscall(
        "landlock_create_ruleset", ctypes.create_string_buffer(attributes, size), size, 0
    )


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_ONLY
        rule = struct.pack("=Qi", rights, fd)
        buffer = ctypes.create_string_buffer(rule, len(rule))
        kernel.syscall("landlock_add_rule", ruleset, _PATH_BENEATH, buffer, 0)
    finally:
        os.close(fd)


def rules(read: Sequence[str], own: Sequence[str], write: Sequence[str]) -> int:
    """A set of rules: `read` trees, `own` folders, and files open for `write`; its descriptor.

    Paths that do not exist are skipped, which only ever allows less. Raises OSError.
    """
    version = abi()
    ruleset = _ruleset(version)
    try:
        for paths, rights in ((read, _READ), (own, _OWN), (write, _READ_FILE | _WRITE_FILE)):
            for path in paths:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    _allow(ruleset, path, rights & _handled(version))
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def obey(ruleset: int) -> None:
    """Confine this process for good. Needs no_new_privs or CAP_SYS_ADMIN. Raises OSError."""
    kernel.syscall("landlock_restrict_self", ruleset, 0)


def restrict(read: Sequence[str], own: Sequence[str], write: Sequence[str]) -> None:
    """Make rules and obey them; see `rules`."""
    ruleset = rules(read, own, write)
    try:
        obey(ruleset)
    finally:
        os.close(ruleset)
