"""`async`: groups are played without end and trained on while they are young enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from agentrl.errors import RunFailed
from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.train.beside import Beside
from agentrl.train.collect import PATIENCE, Assembly, Collected, Method
from agentrl.train.inflight import InFlight
from agentrl.train.staleness import oldest_version
from agentrl.train.tickets import Ticket
from agentrl.trajectory import Group

STRAGGLER = 3.0
"""A group that is played for so many times the median of the last ones is not waited for."""
AGAIN_S = 0.1
"""Seconds after which a learner that waits looks again whether it waits for a straggler."""


@final
class Flow(Beside):
    """A batch is made of whatever groups are finished, the oldest versions first, among equals in
    the order of arrival.

    Pacing comes first (AReaL, 2505.24298, section 5.1): a group is begun only if its turn comes,
    behind everything in flight and waiting, while its tokens are at most `max_staleness` versions
    old. That makes (max_staleness + 1) n_tasks groups at a time, and a batch fewer while the learner
    is at work. So that no group is overtaken until it is too old, a place in a batch that an older
    group in flight will need is kept for it. Only stragglers, played for more than three times as
    long as is usual, are not waited for; what of them is too old is dropped second, under the reason
    `stale`.
    """

    def __init__(
        self,
        method: Method,
        n_tasks: int,
        max_staleness: int,
        left: Sequence[Ticket],
        inflight: InFlight,
        *,
        straggler: float = STRAGGLER,
        again_s: float = AGAIN_S,
    ) -> None:
        """`left` are the tickets of the boundary that the run goes on from."""
        super().__init__(left, inflight)
        self._straggler, self._again_s = straggler, again_s
        self._method, self._n_tasks = method, n_tasks
        self._max_staleness = max_staleness
        self._ready = deque(left)
        self._ctx: Ctx | None = None
        self._version = 0
        """The learner's, when it asked for the batch."""
        self._learning = False
        """From the beginning of an update until the engine has its result."""
        self._n_kept = 0
        """Groups in the batch that is being put together."""
        self._failed = 0
        """Groups in a row that the world failed whole."""

    async def collected(
        self, history: HistoryStore, ctx: Ctx, stored: Sequence[Group], version: int
    ) -> Collected:
        """See `Feed.collected`. Raises RunFailed too when the world fails a batch of groups in a
        row, whatever was kept before."""
        self._ctx, self._version = ctx, version
        oldest = version - self._max_staleness
        made = Assembly(self._method, history, ctx, self._n_tasks, stored=stored, oldest=oldest)
        while made.missing > 0 and made.n_taken < self._limit(made):
            self._start_due()
            await self._inflight.until(self._may_take, again_s=self._again_s)
            finished = self._inflight.finished.pop(self._oldest())
            self._refuse_failures(finished.group)
            made.take(finished.group)
            self._used.append(finished.ticket)
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
        self._inflight.lap()
        self._start_due()

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

    def _oldest(self) -> int:
        """Where the finished group that is nearest to being too old is; of equals the first."""
        ages = [_age(finished.group) for finished in self._inflight.finished]
        return ages.index(min(ages))

    def _may_take(self) -> bool:
        """There is a finished group, and every older one in flight will still find a place.

        A group begun under version v must be in a batch up to that of version v + max_staleness.
        """
        finished = self._inflight.finished
        if not finished:
            return False
        age = _age(finished[self._oldest()].group)
        oldest = self._version - self._max_staleness
        flying = self._inflight.begun_under(at_most=self._straggler)
        older = [v for v in flying if oldest <= v < age]
        places = self._n_tasks - self._n_kept - 1
        return all(n <= places + (v - oldest) * self._n_tasks for n, v in enumerate(older, 1))

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


__all__ = ["Flow"]
