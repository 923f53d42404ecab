"""The trusted side's handle on one session child: its pipes, its process, and facts about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentrl_sandbox.cgroups import Group, read_now
from agentrl_sandbox.ends import Ends

if TYPE_CHECKING:
    from agentrl_sandbox.link import Link

_REST_S = 0.005
"""How long after a run a child may go on."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended, as `wait4` told the zygote."""

    status: int
    cpu_s: float
    peak_rss_mb: float

    @property
    def signal(self) -> int | None:
        """The signal that ended it, if one did."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None

    @property
    def exit_code(self) -> int | None:
        """The code it exited with, if it exited."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None


@dataclass(slots=True)
class Kin:
    """A session and its copies: one zygote's children, which fill one folder of this machine."""

    link: Link
    folder: str
    """Empty where each has a private file tree."""
    members: int = 1
    """How many there have been: what the folder may hold grows with it."""
    alive: int = 1
    group: Group | None = None
    """The cgroup that they share; its limits grow with `members` too."""
    gone: Callable[[bool], None] | None = None
    """Told when the last one was closed, and whether all of them are known to be dead."""
    _known: bool = True

    def grow(self, count: int) -> None:
        """Make room for copies. Raises OSError."""
        self.members += count
        self.alive += count
        if self.group is not None:
            self.group.allow(self.members)

    def leave(self, dead: bool) -> None:
        """One is closed, and `dead` unless nobody could tell in time."""
        self.alive -= 1
        self._known = self._known and dead
        if self.alive == 0 and self.gone is not None:
            self.gone(self._known)


class Child:
    """One session child, alive or dead."""

    def __init__(
        self,
        ends: Ends,
        kin: Kin,
        *,
        session: int,
        work: str,
        pid: int,
        pidfd: int | None,
        fallback: Callable[[int], None],
        exited: asyncio.Future[Exit | None],
    ) -> None:
        self.control = ends.control
        self.out, self.err = ends.out, ends.err
        self.kin = kin
        self.work = work
        """Its work folder as it sees it."""
        self.session = session
        """Its number in the zygote."""
        self.exited = exited
        """Resolves when it is reaped; None when its zygote was lost and nobody could tell."""
        self.runs = 0
        self._oom_kills = 0
        self._ends = ends
        self._pidfd = pidfd
        self._pid = pid if pidfd is None else pid_behind(pidfd)
        self._fallback = fallback
        self._frozen = False
        self._falling_asleep: asyncio.TimerHandle | None = None
        self._closed = False

    def oom_kills(self) -> int:
        """How often the kernel has killed something in its cgroup."""
        if not self._closed and self.kin.group is not None:
            self._oom_kills = self.kin.group.oom_kills()
        return self._oom_kills

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it; the dead are left in peace."""
        if self.exited.done():
            return
        if self._pidfd is None:
            self._fallback(number)
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def freeze(self) -> None:
        """Stop it between runs, so that threads left behind cost nothing."""
        self._stay_awake()
        if self._pidfd is not None:
            self._frozen = True
            self.send_signal(signal.SIGSTOP)

    def freeze_soon(self) -> None:
        """The same in a moment, so that neither this run's answer nor the next run waits for it."""
        self._stay_awake()
        self._falling_asleep = asyncio.get_running_loop().call_later(_REST_S, self.freeze)

    def thaw(self) -> None:
        """Let it go on."""
        self._stay_awake()
        if self._frozen:
            self._frozen = False
            self.send_signal(signal.SIGCONT)

    def _stay_awake(self) -> None:
        if self._falling_asleep is not None:
            self._falling_asleep.cancel()
            self._falling_asleep = None

    def cpu_s(self) -> float:
        """CPU time it has used; 0.0 where the system cannot tell (macOS)."""
        # The clock id of a process, as `clock_getcpuclockid(3)` makes it.
        try:
            return time.clock_gettime((~self._pid << 3) | 2) if self._pidfd is not None else 0.0
        except OSError:
            return 0.0

    def peak_rss_mb(self) -> float:
        """Its greatest resident memory so far, 0.0 where the system cannot tell."""
        return self._told(b"VmHWM") / 1024

    def threads(self) -> int:
        """How many threads it has now, 0 where the system cannot tell."""
        return self._told(b"Threads")

    def _told(self, field: bytes) -> int:
        """A number of its `/proc/<pid>/status`, 0 where there is none."""
        try:
            text = read_now(f"/proc/{self._pid}/status")
        except OSError:
            return 0
        # From the start of a line: its first field is a name that the code chooses.
        _, found, rest = text.partition(b"\n" + field + b":")
        return int(rest.split(None, 1)[0]) if found else 0

    def open_files_bytes(self) -> int:
        """Bytes of its open files that have no name any more, where we may look."""
        total = 0
        folder = f"/proc/{self._pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    entry = os.stat(f"{folder}/{name}")
                    total += entry.st_blocks * 512 if entry.st_nlink == 0 else 0
        return total

    def has_ended(self) -> bool:
        """Whether it is dead, reaped or not; False where only the reaper can tell (macOS)."""
        if self.exited.done() or self._pidfd is None:
            return self.exited.done()
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    async def close(self, deadline_s: float) -> None:
        """Kill it, wait until it is reaped, and give back its descriptors. Idempotent."""
        self.kill()
        try:
            await asyncio.wait({self.exited}, timeout=deadline_s)
        finally:
            self._release()

    def forget(self) -> None:
        """Give back its descriptors without waiting; for one that is dead anyway."""
        self.kill()
        self._release()

    def _release(self) -> None:
        if self._closed:
            return
        self.oom_kills()
        self._stay_awake()
        self._closed = True
        self._ends.close_near()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self.kin.leave(self.exited.done())


def pid_behind(pidfd: int) -> int:
    """The pid in our own namespace; the zygote knows only its own. -1: it cannot be told."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return -1


def peak_mb(maxrss: int, platform: str) -> float:
    """`ru_maxrss` in MiB: it is in bytes on macOS, in KiB elsewhere."""
    return maxrss / (1 << 20 if platform == "darwin" else 1024)
