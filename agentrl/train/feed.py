"""Where a step's groups come from, mode by mode: in turn, one step ahead, or an endless flow.

    sync           rollouts, update, sync, one after the other
    one_step_off   the rollouts of step k + 1 are played during the update of step k, all of them
                   under one version; the sync waits for them
    async          groups are played without end, no faster than they will be trained on; syncs
                   happen in the middle of generations

In the two overlapped modes nothing new is begun between the end of an update and the end of the
evaluation that may follow it, so an evaluation is played under the version of its boundary.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal, Protocol, Self, final

from agentrl.errors import RunFailed
from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.train.collect import PATIENCE, Assembly, Collected, Method, collect
from agentrl.train.inflight import Finished, InFlight
from agentrl.train.staleness import oldest_version
from agentrl.train.tickets import Key, Ticket, Tickets
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

    def left(self) -> tuple[Ticket, ...]:
        """Drawn from the source and in no batch yet."""
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

    def left(self) -> tuple[Ticket, ...]:
        """Nothing: every drawn task was in the batch."""
        return ()

    def metrics(self) -> Mapping[str, float]:
        """None of its own."""
        return {}


@final
class OneAhead:
    """`one_step_off`: a batch is played during the update before it, so it is one version old.

    Its first round is; rounds that a gate asks for besides are played when they are due.
    """

    def __init__(
        self, method: Method, n_tasks: int, left: Sequence[Ticket], inflight: InFlight
    ) -> None:
        """`left` are the tickets of the boundary that the run goes on from."""
        self._method, self._n_tasks, self._inflight = method, n_tasks, inflight
        self._tickets = Tickets(left)
        self._ahead: list[Ticket] = []
        """The next batch's first round, under way."""
        self._resumed = list(left)
        self._ctx: Ctx | None = None

    async def __aenter__(self) -> Self:
        await self._inflight.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._inflight.__aexit__(kind, error, trace)

    async def collected(
        self, history: HistoryStore, ctx: Ctx, stored: Sequence[Group], version: int
    ) -> Collected:
        """See `Feed.collected`."""
        self._ctx = ctx
        used: list[Ticket] = []

        async def one(n: int) -> Sequence[Group]:
            """A round: the one under way, else a fresh one."""
            if not self._ahead:
                self._begin(n, ctx)
            await self._played()
            tickets, self._ahead = self._ahead, []
            used.extend(tickets)
            return self._take(tickets)

        found = await collect(
            self._method, history, ctx, self._n_tasks, stored=stored, play_round=one
        )
        self._tickets.close(used)
        return found

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
        """The next round begins with the next update."""

    def left(self) -> tuple[Ticket, ...]:
        """See `Feed.left`."""
        return self._tickets.left

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


@final
class Flow:
    """`async`: a batch is made of whatever groups are finished, the oldest versions first.

    Pacing comes first: a group is begun only if, with every group that is in flight or waits
    before it, its turn comes while its tokens are at most `max_staleness` versions old. Updates
    trained on `n_tasks` groups each give (max_staleness + 1) n_tasks groups at a time, less a
    batch while the learner is at work. What is overtaken all the same, because it was played for
    longer than that many updates, is dropped second, under the reason `stale`.
    """

    def __init__(
        self,
        method: Method,
        n_tasks: int,
        max_staleness: int,
        left: Sequence[Ticket],
        inflight: InFlight,
    ) -> None:
        """`left` are the tickets of the boundary that the run goes on from."""
        self._method, self._n_tasks, self._inflight = method, n_tasks, inflight
        self._max_staleness = max_staleness
        self._tickets = Tickets(left)
        self._ready = deque(left)
        self._ctx: Ctx | None = None
        self._learning = False
        """From the beginning of an update until the engine has its result."""
        self._n_kept = 0
        """Groups in the batch that is being put together."""
        self._failed = 0
        """Groups in a row that the world failed whole."""

    async def __aenter__(self) -> Self:
        await self._inflight.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._inflight.__aexit__(kind, error, trace)

    async def collected(
        self, history: HistoryStore, ctx: Ctx, stored: Sequence[Group], version: int
    ) -> Collected:
        """See `Feed.collected`. Raises RunFailed too when the world fails a batch of groups in a
        row, whatever was kept before."""
        self._ctx = ctx
        oldest = version - self._max_staleness
        made = Assembly(self._method, history, ctx, self._n_tasks, stored=stored, oldest=oldest)
        while made.missing > 0 and made.n_taken < self._limit(made):
            self._start_due()
            await self._inflight.until(lambda: bool(self._inflight.finished))
            finished = self._oldest_first()
            self._refuse_failures(finished.group)
            made.take(finished.group)
            self._tickets.close((finished.ticket,))
            if made.n_taken % self._n_tasks == 0:
                made.top_up()
            self._n_kept = made.n_kept
        return made.collected(-(-made.n_taken // self._n_tasks))

    def learning(self) -> None:
        """See `Feed.learning`."""
        self._learning, self._n_kept = True, 0
        self._start_due()

    async def settled(self) -> None:
        """At once: generations under way go on under the new weights."""

    def synced(self) -> None:
        """See `Feed.synced`: the next batch's groups have one more update before them."""
        self._learning = False
        assert self._ctx is not None
        self._ctx = replace(self._ctx, step=self._ctx.step + 1)
        self._start_due()

    def left(self) -> tuple[Ticket, ...]:
        """See `Feed.left`."""
        return self._tickets.left

    def metrics(self) -> Mapping[str, float]:
        """Idle shares, groups that wait for a batch and groups in flight."""
        lap = self._inflight.lap()
        return {
            "idle/learner": lap.learner_idle,
            "idle/rollouts": lap.rollouts_idle,
            "queue": float(len(self._inflight.finished)),
            "in_flight": float(self._inflight.n_running),
        }

    def _limit(self, made: Assembly) -> int:
        """Groups to look at for one batch; generous, since failed and stale ones are replaced."""
        rounds = self._method.rounds
        return self._n_tasks * (max(rounds, PATIENCE) if made.n_kept else rounds * PATIENCE)

    def _start_due(self) -> None:
        """Begin every group that may be begun now."""
        assert self._ctx is not None
        ctx = self._ctx
        step = ctx.step + self._learning
        updates = min(self._max_staleness + 1 - self._learning, ctx.total_steps - step)
        flight = self._inflight
        room = updates * self._n_tasks - self._n_kept - flight.n_running - len(flight.finished)
        if room <= 0:
            return
        due = [self._ready.popleft() for _ in range(min(room, len(self._ready)))]
        if len(due) < room:
            ahead = replace(ctx, step=step)
            due += self._tickets.draw(self._method.source, room - len(due), ahead)
        for ticket in due:
            flight.start(ticket, ctx)

    def _oldest_first(self) -> Finished:
        """The finished group that is nearest to being too old; among equals the first to arrive."""
        finished = self._inflight.finished
        chosen = min(range(len(finished)), key=lambda i: (_age(finished[i].group), i))
        return finished.pop(chosen)

    def _refuse_failures(self, group: Group) -> None:
        errors = [t.error for t in group.trajectories if t.error is not None]
        whole = bool(errors) and len(errors) == len(group.trajectories)
        self._failed = self._failed + 1 if whole else 0
        if self._failed >= self._n_tasks:
            raise RunFailed(
                f"every rollout of {self._failed} groups in a row failed; the last with: {errors[0]}"
            )


def _age(group: Group) -> int:
    """Its lowest version; a group without a sampled token comes first."""
    found = [oldest_version(t) for t in group.trajectories]
    return min((v for v in found if v is not None), default=-1)


__all__ = ["Feed", "Flow", "InTurn", "Mode", "OneAhead", "Overlap"]
