"""The groups that are played beside the learner, and the watchdog over them."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, Event, Task, TaskGroup
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from statistics import median
from time import monotonic
from types import TracebackType
from typing import final

from agentrl.engine.base import Engine
from agentrl.errors import RunFailed
from agentrl.points import Ctx
from agentrl.train.collect import Method, score
from agentrl.train.tickets import Key, Ticket
from agentrl.trajectory import Group

NAMED = 3
"""Groups that a watchdog's message names."""
REMEMBERED = 64
"""Groups whose duration says what is usual."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A group that was played to its end and scored, not yet shaped."""

    ticket: Ticket
    group: Group


@dataclass(frozen=True, slots=True)
class Lap:
    """How the two sides used a stretch of time, as shares of it."""

    learner_idle: float
    """The learner waited for groups."""
    rollouts_idle: float
    """No group was being played."""


@final
class InFlight:
    """Every group is a task of its own. A bug inside one ends the run, the others are called off."""

    def __init__(
        self,
        method: Method,
        engine: Engine,
        stuck_s: float | None,
        played: Iterable[Finished] = (),
    ) -> None:
        """`stuck_s`: seconds without a finished group after which a waiting learner gives up.
        `played`: groups of the boundary that the run goes on from, which need not be played again.
        """
        self._method, self._engine, self._stuck_s = method, engine, stuck_s
        self._group = TaskGroup()
        self._tasks: set[Task[None]] = set()
        self._since: dict[Key, tuple[Ticket, float, int]] = {}
        self._progress = Event()
        self._lap_start = self._quiet_since = monotonic()
        self._waited_s = self._quiet_s = 0.0
        self._durations_s: deque[float] = deque(maxlen=REMEMBERED)
        self._kept = {finished.ticket.key: finished for finished in played}
        self._unspent: dict[Key, Finished] = {}
        self.finished: list[Finished] = []
        """In order of arrival; whoever takes one out removes it."""

    async def __aenter__(self) -> InFlight:
        await self._group.__aenter__()
        self._lap_start = self._quiet_since = monotonic()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Call off what is still played. What a group raised comes out as an ExceptionGroup; what
        the block itself raised, as it is."""
        for task in self._tasks:
            task.cancel()
        cancelled = error if isinstance(error, CancelledError) else None
        await self._group.__aexit__(cancelled and type(cancelled), cancelled, trace)

    @property
    def n_running(self) -> int:
        """Groups being played."""
        return len(self._since)

    def start(self, ticket: Ticket, ctx: Ctx) -> None:
        """Play a group; it is found in `finished` later, or at once when it was played before."""
        if ticket.key in self._kept:
            self._arrived(self._kept.pop(ticket.key))
            return
        # Steps come in order: what was played for an earlier one has not been drawn for it again.
        self._kept = {k: f for k, f in self._kept.items() if f.ticket.step >= ticket.step}
        if not self._since:
            self._quiet_s += monotonic() - self._quiet_since
        self._since[ticket.key] = ticket, monotonic(), self._engine.version
        task = self._group.create_task(self._play(ticket, ctx))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, ticket: Ticket, ctx: Ctx) -> None:
        method = self._method
        played = await method.plan.collect(ticket.task, method.services, ticket.ctx(ctx))
        (group,) = await score([played], method.services)
        _, since, _ = self._since.pop(ticket.key)
        self._durations_s.append(monotonic() - since)
        if not self._since:
            self._quiet_since = monotonic()
        self._arrived(Finished(ticket, group))

    def _arrived(self, finished: Finished) -> None:
        self.finished.append(finished)
        self._unspent[finished.ticket.key] = finished
        self._progress.set()

    def spend(self, tickets: Iterable[Ticket]) -> None:
        """The groups of these tickets are trained on: a boundary need not hold them."""
        for ticket in tickets:
            del self._unspent[ticket.key]

    @property
    def unspent(self) -> tuple[Finished, ...]:
        """Groups that were played to their end and are in no finished step.

        Those that the world failed in part are left out: it may do better next time.
        """
        return tuple(
            finished
            for finished in (*self._unspent.values(), *self._kept.values())
            if all(t.error is None for t in finished.group.trajectories)
        )

    def begun_under(self, *, at_most: float) -> list[int]:
        """Versions under which the running groups were begun, in order.

        Without stragglers: groups that have been played for more than `at_most` times the median of
        the last ones.
        """
        now = monotonic()
        limit_s = at_most * median(self._durations_s) if self._durations_s else inf
        return sorted(v for _, since, v in self._since.values() if now - since <= limit_s)

    async def until(self, ready: Callable[[], bool], *, again_s: float | None = None) -> None:
        """Wait until `ready`, asked whenever a group is finished, and every `again_s` besides.

        Raises RunFailed, naming who is stuck, when none is finished for `stuck_s`.
        """
        asked = progressed = monotonic()
        try:
            while not ready():
                self._progress.clear()
                left_s = inf if self._stuck_s is None else progressed + self._stuck_s - monotonic()
                if left_s <= 0:
                    raise RunFailed(self._stuck())
                wait_s = min(left_s, inf if again_s is None else again_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait_s == inf else wait_s):
                        await self._progress.wait()
                        progressed = monotonic()
        finally:
            self._waited_s += monotonic() - asked

    def lap(self) -> Lap:
        """The time since the last call."""
        now = monotonic()
        elapsed_s = max(now - self._lap_start, 1e-9)
        quiet_s = self._quiet_s + (0.0 if self._since else now - self._quiet_since)
        lap = Lap(min(1.0, self._waited_s / elapsed_s), min(1.0, quiet_s / elapsed_s))
        self._lap_start = self._quiet_since = now
        self._waited_s = self._quiet_s = 0.0
        return lap

    def _stuck(self) -> str:
        now, engine = monotonic(), self._engine.statistics()
        longest = sorted(self._since.values(), key=lambda entry: entry[1])[:NAMED]
        named = ", ".join(
            f"task {ticket.task.id} for {now - since:.0f} s (begun under version {version})"
            for ticket, since, version in longest
        )
        return (
            f"no group of rollouts was finished for {self._stuck_s:g} s while the learner waited: "
            f"{self.n_running} in flight ({named or 'none'}); the engine runs {engine.running} "
            f"requests and {engine.waiting} wait; look at what their tools wait for, set "
            "env.episode_s, or raise train.stuck_s"
        )


__all__ = ["Finished", "InFlight", "Lap"]
