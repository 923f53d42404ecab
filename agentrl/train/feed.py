"""Where a step's groups come from, mode by mode: in turn, one step ahead, or an endless flow.

    sync           rollouts, update, sync, one after the other
    one_step_off   the rollouts of step k + 1 are played during the update of step k, all of them
                   under one version; the sync waits for them
    async          groups are played without end, no faster than they will be trained on; syncs
                   happen in the middle of generations (`agentrl.train.flow`)

In the two overlapped modes nothing new is begun between the end of an update and the end of the
evaluation that may follow it, so an evaluation is played under the version of its boundary.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal, Protocol, Self, final

from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.train.beside import Beside
from agentrl.train.collect import Collected, Method, collect
from agentrl.train.inflight import Finished, InFlight
from agentrl.train.tickets import Key, Ticket
from agentrl.trajectory import Group

Mode = Literal["sync", "one_step_off", "async"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How rollouts and updates share the time."""

    mode: Mode = "sync"
    max_staleness: int = 0
    """Versions that a trained token may be behind the learner."""
    stuck_s: float | None = None
    """Seconds without a finished group after which a waiting learner gives up; None: never."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever computes with the learner."""


class Feed(Protocol):
    """Gives the loop a batch a step. Entered before the first step, left after the last."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def collected(
        self, history: HistoryStore, ctx: Ctx, stored: Sequence[Group], version: int
    ) -> Collected:
        """The batch of the step of `ctx`, for a learner of this version; see `collect`."""
        ...

    def learning(self) -> None:
        """The step's update begins: groups of later steps may be started."""
        ...

    async def settled(self) -> None:
        """Return when the engine may be given new weights."""
        ...

    def synced(self) -> None:
        """The engine has the new weights, and the evaluation is over."""
        ...

    def learnt(self) -> None:
        """The update is over: its batch belongs to the past."""
        ...

    def left(self) -> tuple[Ticket, ...]:
        """Drawn from the source and in no batch yet."""
        ...

    def played(self) -> tuple[Finished, ...]:
        """Groups played to their end and not yet `learnt`."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Of the step, asked once when it ends."""
        ...


@final
class InTurn:
    """`sync`: the step's rollouts are played when the step asks for them."""

    def __init__(self, method: Method, n_tasks: int) -> None:
        self._method, self._n_tasks = method, n_tasks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is left running."""

    async def collected(
        self, history: HistoryStore, ctx: Ctx, stored: Sequence[Group], version: int
    ) -> Collected:
        """See `Feed.collected`."""
        return await collect(self._method, history, ctx, self._n_tasks, stored=stored)

    def learning(self) -> None:
        """Nothing is started beside an update."""

    async def settled(self) -> None:
        """At once: nothing is generated."""

    def synced(self) -> None:
        """Nothing waits for it."""

    def learnt(self) -> None:
        """Nothing is remembered."""

    def left(self) -> tuple[Ticket, ...]:
        """Nothing: every drawn task was in the batch."""
        return ()

    def played(self) -> tuple[Finished, ...]:
        """Nothing: a step cut short is played again."""
        return ()

    def metrics(self) -> Mapping[str, float]:
        """None of its own."""
        return {}


@final
class OneAhead(Beside):
    """`one_step_off`: a batch is played during the update before it, so it is one version old.

    Its first round is; rounds that a gate asks for besides are played when they are due.
    """

    def __init__(
        self, method: Method, n_tasks: int, left: Sequence[Ticket], inflight: InFlight
    ) -> None:
        """`left` are the tickets of the boundary that the run goes on from."""
        super().__init__(left, inflight)
        self._method, self._n_tasks = method, n_tasks
        self._ahead: list[Ticket] = []
        """The next batch's first round, under way."""
        self._resumed = list(left)
        self._ctx: Ctx | None = None

    async def collected(
        self, history: HistoryStore, ctx: Ctx, stored: Sequence[Group], version: int
    ) -> Collected:
        """See `Feed.collected`."""
        self._ctx = ctx

        async def one(n: int) -> Sequence[Group]:
            """A round: the one under way, else a fresh one."""
            if not self._ahead:
                self._begin(n, ctx)
            await self._played()
            tickets, self._ahead = self._ahead, []
            self._used.extend(tickets)
            return self._take(tickets)

        return await collect(
            self._method, history, ctx, self._n_tasks, stored=stored, play_round=one
        )

    def learning(self) -> None:
        """See `Feed.learning`."""
        assert self._ctx is not None
        step = self._ctx.step + 1
        if step < self._ctx.total_steps:
            self._begin(self._n_tasks, replace(self._ctx, step=step))

    async def settled(self) -> None:
        """See `Feed.settled`: the engine keeps its weights until the round is over."""
        await self._played()

    def synced(self) -> None:
        """The next round begins with the next update; an evaluation is no idle time."""
        self._inflight.lap()

    def metrics(self) -> Mapping[str, float]:
        """Idle shares."""
        lap = self._inflight.lap()
        return {"idle/learner": lap.learner_idle, "idle/rollouts": lap.rollouts_idle}

    def _begin(self, n: int, ctx: Ctx) -> None:
        self._ahead, self._resumed = self._resumed[:n], self._resumed[n:]
        if len(self._ahead) < n:
            self._ahead += self._tickets.draw(self._method.source, n - len(self._ahead), ctx)
        for ticket in self._ahead:
            self._inflight.start(ticket, ctx)

    async def _played(self) -> None:
        await self._inflight.until(lambda: self._inflight.n_running == 0)

    def _take(self, tickets: Sequence[Ticket]) -> list[Group]:
        """Their groups, in the order in which the tasks were drawn."""
        by_key: dict[Key, Group] = {f.ticket.key: f.group for f in self._inflight.finished}
        self._inflight.finished.clear()
        return [by_key[ticket.key] for ticket in tickets]


__all__ = ["Feed", "InTurn", "Mode", "OneAhead", "Overlap"]
