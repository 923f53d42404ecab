"""A memory cgroup per session, version 1 or 2: a bound that no way of allocating gets around.

Groups lie below the cgroup that this process is in, so that whatever bounds it bounds them too:
one folder per zygote, named after the process that owns it, and in it one per session. Files and
their meaning: `Documentation/admin-guide/cgroup-v1/memory.rst` and `cgroup-v2.rst` of Linux.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from agentrl.sandbox import SandboxLimits

_OVERHEAD_MB = 64
"""The warm interpreter's pages that a session may come to own by writing to them."""
_NAME = re.compile(r"agentrl-(\d+)-(\d+)-\d+")
_NEEDED = ("memory", "pids")
_PERIOD_US = 100_000
_PROC = Path("/proc/self")
_SMALL = 8192
_serials = itertools.count()


@dataclass(frozen=True, slots=True)
class Group:
    """The cgroups of a session and its copies: for each controller a folder, version 2 only one."""

    folders: dict[str, Path]
    unified: bool
    limits: SandboxLimits

    def allow(self, members: int) -> None:
        """Set the limits for that many sessions together. Raises OSError."""
        limits = self.limits
        memory = str(members * (limits.memory_mb + _OVERHEAD_MB) << 20)
        folder = self.folders["memory"]
        # One more for the zygote that forks them.
        (self.folders["pids"] / "pids.max").write_text(str(members * limits.processes + 1))
        if self.unified:
            (folder / "memory.max").write_text(memory)
            _write_if_there(folder / "memory.swap.max", "0")
        else:
            # Memory and swap together may not be below memory alone: raised first, lowered last.
            both = folder / "memory.memsw.limit_in_bytes"
            _write_if_there(both, memory)
            (folder / "memory.limit_in_bytes").write_text(memory)
            _write_if_there(both, memory)
        if limits.cpus and "cpu" in self.folders:
            self._allow_cpu(str(int(members * limits.cpus * _PERIOD_US)))

    def _allow_cpu(self, quota: str) -> None:
        folder = self.folders["cpu"]
        if self.unified:
            (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(quota)

    def attach(self, pid: int) -> None:
        """Move a process in. May take some 10 ms when nothing was moved lately. Raises OSError."""
        for folder in dict.fromkeys(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def oom_kills(self) -> int:
        """How often the kernel has killed something in here for want of memory."""
        name = "memory.events" if self.unified else "memory.oom_control"
        try:
            text = read_now(f"{self.folders['memory']}/{name}")
        except OSError:
            return 0
        _, found, rest = text.partition(b"\noom_kill ")
        return int(rest.split(None, 1)[0]) if found else 0

    def remove(self) -> None:
        """Remove it; one with a process still in it stays until the pool closes."""
        for folder in dict.fromkeys(self.folders.values()):
            with contextlib.suppress(OSError):
                folder.rmdir()


@dataclass(frozen=True, slots=True)
class Places:
    """Where groups can be made: for each controller its version and the folder to be below."""

    of: dict[str, Path]
    unified: bool
    """Version 2: all controllers in one folder."""

    def make_home(self, limits: SandboxLimits) -> Home:
        """A folder for the groups of one zygote. Raises OSError where that is not allowed."""
        name = f"agentrl-{os.getpid()}-{_started(os.getpid())}-{next(_serials)}"
        controllers = [c for c in self.of if c != "cpu" or limits.cpus]
        folders = {c: self.of[c] / name for c in controllers}
        for folder in dict.fromkeys(folders.values()):
            folder.mkdir(0o755)
        home = Home(folders, self.unified, limits)
        try:
            if self.unified:
                _delegate(home.folders[controllers[0]], controllers)
        except OSError:
            home.remove()
            raise
        return home

    def sweep(self) -> None:
        """Remove what processes left behind that are no longer there."""
        for parent in dict.fromkeys(self.of.values()):
            for folder in parent.glob("agentrl-*"):
                named = _NAME.fullmatch(folder.name)
                if named and _started(int(named[1])) != int(named[2]):
                    _remove(folder)


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one zygote's groups, for each controller."""

    folders: dict[str, Path]
    unified: bool
    limits: SandboxLimits

    def paths(self) -> tuple[str, ...]:
        """The folders, each once."""
        return tuple(dict.fromkeys(map(str, self.folders.values())))

    def make_group(self, name: str) -> Group:
        """A group with the limits of one session. Raises OSError."""
        own = {c: folder / name for c, folder in self.folders.items()}
        for folder in dict.fromkeys(own.values()):
            folder.mkdir(0o755)
        group = Group(own, self.unified, self.limits)
        group.allow(1)
        return group

    def remove(self) -> None:
        """Remove every group that is empty, and the home itself."""
        for folder in dict.fromkeys(self.folders.values()):
            _remove(folder)


def find() -> Places:
    """Where this process may make groups. Raises OSError with the reason when it may not."""
    mounts = _mounts()
    own = _own_groups()
    if "" in own and "" in mounts:
        found = _version_two(mounts[""], own[""])
        if found is not None:
            return found
    missing = [c for c in _NEEDED if c not in mounts or c not in own]
    if missing:
        raise OSError(f"no {' and no '.join(missing)} controller is mounted")
    found = {c: _below(mounts[c], own[c]) for c in (*_NEEDED, "cpu") if c in mounts and c in own}
    ours = {c: folder for c, folder in found.items() if os.access(folder, os.W_OK)}
    for controller in _NEEDED:
        if controller not in ours:
            raise OSError(f"{found[controller]} cannot be written to")
    return Places(ours, unified=False)


def _version_two(mount: tuple[str, str], own: str) -> Places | None:
    """Our own group, or the one above it when the processes in ours are in the way."""
    here = _below(mount, own)
    for folder in (here, here.parent):
        if not folder.is_relative_to(mount[0]):
            break
        there = _words(folder / "cgroup.controllers")
        wanted = [c for c in (*_NEEDED, "cpu") if c in there]
        if not set(_NEEDED) <= set(wanted):
            return None
        with contextlib.suppress(OSError):
            _delegate(folder, wanted)
            return Places(dict.fromkeys(wanted, folder), unified=True)
    return None


def _delegate(folder: Path, controllers: list[str]) -> None:
    lacking = set(controllers) - set(_words(folder / "cgroup.subtree_control"))
    if lacking:
        order = " ".join(f"+{c}" for c in sorted(lacking))
        (folder / "cgroup.subtree_control").write_text(order)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def read_now(path: str) -> bytes:
    """A small file of the kernel's; each run reads some, so without Python's buffers. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _SMALL)
    finally:
        os.close(fd)


def _write_if_there(file: Path, text: str) -> None:
    if file.exists():
        with contextlib.suppress(OSError):
            file.write_text(text)


def _mounts() -> dict[str, tuple[str, str]]:
    """Controller (empty: version 2) -> mount point and the group that is mounted there."""
    found: dict[str, tuple[str, str]] = {}
    for line in (_PROC / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("", (point, root))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, (point, root))
    return found


def _own_groups() -> dict[str, str]:
    """Controller (empty: version 2) -> path of the group that this process is in."""
    found: dict[str, str] = {}
    for line in (_PROC / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _below(mount: tuple[str, str], group: str) -> Path:
    point, root = mount
    inside = os.path.relpath(group, root) if group.startswith(root) else "."
    return Path(os.path.normpath(os.path.join(point, inside)))


def _started(pid: int) -> int:
    """When a process started, in clock ticks; -1 when it is not there."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return -1


def _remove(home: Path) -> None:
    with contextlib.suppress(OSError):
        for entry in home.iterdir():
            if entry.is_dir():
                with contextlib.suppress(OSError):
                    entry.rmdir()
        home.rmdir()
