"""User, capabilities and resource limits of a session child."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct

from agentrl_sandbox.inside import kernel

_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_USER_BASES = (0x7000_0000, 200_000, 60_000)
SPARE = 1024
_MB = 1 << 20


def spare_users() -> int | None:
    """First of `SPARE` user ids that nobody has, for root to become; None when none is mapped."""
    with open("/proc/self/uid_map") as file:
        spans = [tuple(map(int, line.split())) for line in file]
    for base in _USER_BASES:
        if any(first <= base and base + SPARE <= first + count for first, _, count in spans):
            return base
    return None


def become(user: int) -> None:
    """Take `user` as the only user and group, for good."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def drop_capabilities() -> None:
    """Empty every capability set. The bounding set needs a right that may already be gone."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        except OSError:
            break
    with contextlib.suppress(OSError):
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    buffer = ctypes.create_string_buffer(header, len(header))
    kernel.call("capset", buffer, ctypes.create_string_buffer(24))


def limit(
    *, address_space_mb: float, disk_mb: int, open_files: int, processes: int | None, strict: bool
) -> None:
    """Set the resource limits. `strict` False: where one is unknown or refused, go on (macOS).

    `processes`: of the user, None: no bound, as when the user has others.
    """
    wanted = {
        "RLIMIT_AS": int(address_space_mb * _MB),
        "RLIMIT_FSIZE": disk_mb * _MB,
        "RLIMIT_NOFILE": open_files,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_SIGPENDING": 256,
        "RLIMIT_RTPRIO": 0,
    }
    if processes is not None:
        wanted["RLIMIT_NPROC"] = processes
    for name, value in wanted.items():
        number = getattr(resource, name, None)
        if number is None:
            continue
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(number, (value, value))
        except (ValueError, OSError):
            if strict:
                raise


def address_space_mb() -> float:
    """Address space of this process now, 0 where it cannot be told."""
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / _MB
