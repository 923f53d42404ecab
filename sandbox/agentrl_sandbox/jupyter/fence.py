"""The system-call filter of a kernel: that of the `local` back end, but for socket files.

A kernel talks through socket files, so it must be able to make them. Every other family is refused:
not all of them (vsock) are kept apart by a network namespace.
"""

from __future__ import annotations

import errno
import os
import struct

from agentrl_sandbox.inside import kernel, seccomp
from agentrl_sandbox.inside.syscalls import AUDIT_ARCH, NUMBERS

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ARCH, _NR, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 4, 0, 16, 24
_SCHED_OTHER = 0
_AF_UNIX, _AF_NETLINK = 1, 16
_ALLOWED = ("connect", "bind", "listen", "accept", "accept4")


def load() -> None:
    """Install the filter on this process for good. Raises OSError."""
    seccomp.load(_sockets() + seccomp.build(os.getpid(), private_files=True))


def _sockets() -> bytes:
    """Instructions that answer the socket calls of this machine type and leave all others alone."""
    numbers = NUMBERS[kernel.ARCH]
    rules = [
        (_LOAD, 0, 0, _NR),
        (_EQUAL, 0, 6, numbers["socket"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, seccomp.ALLOW),
        # ZeroMQ takes this answer for a machine without interfaces and aborts at any other.
        (_EQUAL, 0, 1, _AF_NETLINK),
        (_RETURN, 0, 0, seccomp.ERRNO | errno.EOPNOTSUPP),
        (_RETURN, 0, 0, seccomp.ERRNO | errno.EPERM),
    ]
    for name in _ALLOWED:
        rules += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, seccomp.ALLOW)]
    # ZeroMQ gives its threads the scheduling that they have and aborts when that is refused.
    rules += [
        (_EQUAL, 0, 3, numbers["sched_setscheduler"]),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_EQUAL, 0, 1, _SCHED_OTHER),
        (_RETURN, 0, 0, seccomp.ERRNO),
    ]
    # The numbers mean other calls to a 32-bit program: the filter that follows ends those.
    arch = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 0, len(rules), AUDIT_ARCH[kernel.ARCH])]
    return b"".join(struct.pack("=HBBI", *rule) for rule in [*arch, *rules])
