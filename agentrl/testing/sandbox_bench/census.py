"""Counting what a pool holds of the machine: for the memory of a session, and for leaks."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Census:
    """What this process and its descendants hold."""

    processes: int
    descriptors: int
    """Of this process and all below it."""
    mounts: int
    """Over all mount namespaces of these processes."""
    cgroups: int
    """Made by this process."""
    files: int
    """Below the folder for temporary files, which should be ours alone."""
    memory_mb: int
    """Resident memory of these processes together."""


def census() -> Census:
    """Count now. Linux only."""
    family = descendants(os.getpid()) | {os.getpid()}
    return Census(
        processes=len(family),
        descriptors=sum(_entries(f"/proc/{pid}/fd") for pid in family),
        mounts=_mounts(family),
        cgroups=_groups(),
        files=sum(len(dirs) + len(files) for _, dirs, files in os.walk(tempfile.gettempdir())),
        memory_mb=sum(_resident_kb(pid) for pid in family) >> 10,
    )


def descendants(root: int) -> set[int]:
    """Living processes below `root`, itself left out."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(name)] = int(fields[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}


def private_mb(pid: int) -> float:
    """Memory that only this process holds (USS). Raises OSError where we may not look."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kb = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return sum(kb) / 1024


def _entries(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0


def _mounts(family: set[int]) -> int:
    spaces: dict[str, int] = {}
    for pid in family:
        with contextlib.suppress(OSError):
            space = os.readlink(f"/proc/{pid}/ns/mnt")
            if space not in spaces:
                spaces[space] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return sum(spaces.values())


def _groups() -> int:
    """Folders named after this process, as the local back end names them, and all below them."""
    mark = f"agentrl-{os.getpid()}-"
    return sum(mark in folder for folder, _, _ in os.walk(_CGROUPS))


def _resident_kb(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
