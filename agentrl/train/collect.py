"""One step's groups: rollouts, rewards, shaping, gating. The only control flow before the update.

Shapers see the committed history plus their own group; what they write is committed once, at the
optimiser-step boundary, for all scored groups, gated-out ones included.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from agentrl.errors import RunFailed, WorldFault
from agentrl.evaluate.run import play
from agentrl.history import HistoryStore, Write
from agentrl.points import (
    Ctx,
    Divert,
    Drop,
    GroupGate,
    Keep,
    RewardShaper,
    RolloutPlan,
    Services,
    Shaped,
    TaskSource,
)  # fmt: skip
from agentrl.rewards.base import rewarded, summed
from agentrl.train import replay
from agentrl.train.staleness import STALE, all_stale, fresh_only
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import floats_array

PATIENCE = 5
"""Times `gate_rounds` that a step looks for its first group: a gate that lets none of a solved batch
through must not end the run while some are left."""
SCORE_S = 900.0
"""Deadline of one trajectory's scoring; longer than an episode's."""


@dataclass(frozen=True, slots=True)
class Method:
    """The extension points that decide a step's groups."""

    source: TaskSource
    plan: RolloutPlan
    services: Services
    shapers: Sequence[RewardShaper] = ()
    gate: GroupGate | None = None
    rounds: int = 1
    """Generation rounds a gate may ask for before the step goes on with fewer groups."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a step trains on and what it learnt about the rest."""

    kept: tuple[Group, ...]
    everyone: tuple[Group, ...]
    """All groups, dropped ones and failed trajectories included."""
    writes: tuple[Write, ...]
    dropped: dict[str, int]
    """Reason -> groups."""
    rounds: int
    diverted: Mapping[str, Sequence[Group]] = field(default_factory=dict[str, Sequence[Group]])
    """Queue -> groups sent there instead of into the batch."""
    remember: Sequence[Group] = ()
    """Fresh groups that a gate wants kept for later steps."""
    stored: Sequence[Group] = ()
    """What is left of the stored groups."""
    replayed: int = 0
    """Stored groups among `kept`."""

    @property
    def fresh(self) -> tuple[Group, ...]:
        """The groups of `kept` that were not stored ones."""
        uids = {t.uid for group in self.everyone for t in group.trajectories}
        return tuple(g for g in self.kept if g.trajectories[0].uid in uids)


@final
class Assembly:
    """One step's batch, put together group by group: shaping, gating, replay.

    Shapers and gates see the history committed at the last boundary plus their own group, whenever
    that group was played.
    """

    def __init__(
        self,
        method: Method,
        history: HistoryStore,
        ctx: Ctx,
        n_tasks: int,
        *,
        stored: Sequence[Group] = (),
        oldest: int | None = None,
    ) -> None:
        """`oldest` is the lowest policy version that may still be trained on; None: any."""
        self._method, self._history, self._ctx = method, history, ctx
        self._n_tasks, self._stored, self._oldest = n_tasks, stored, oldest
        self._kept: list[Group] = []
        self._everyone: list[Group] = []
        self._writes: list[Write] = []
        self._dropped: dict[str, int] = {}
        self._diverted: dict[str, list[Group]] = {}
        self._remember: list[Group] = []
        self._replayed = 0

    @property
    def n_kept(self) -> int:
        """Groups in the batch so far."""
        return len(self._kept)

    @property
    def n_taken(self) -> int:
        """Groups seen so far, dropped ones included."""
        return len(self._everyone)

    @property
    def missing(self) -> int:
        """Groups the batch still lacks."""
        return self._n_tasks - len(self._kept)

    def take(self, group: Group) -> None:
        """Shape a group, and keep, drop or divert it."""
        method = self._method
        if self._oldest is not None:
            group = fresh_only(group, self._oldest)
        shaped, offered = shape(group, method.shapers, self._history, self._ctx)
        self._everyone.append(shaped)
        self._writes.extend(offered)
        shaped = shaped.counted
        match _verdict(shaped, method.gate, self._history, self._ctx):
            case Keep() as keep:
                self._kept.append(_admitted(shaped, keep))
                if keep.remember:
                    self._remember.append(self._kept[-1])
            case Drop(reason=reason):
                self._count(reason)
            case Divert(queue=queue, reason=reason):
                self._count(reason)
                self._diverted.setdefault(queue, []).append(shaped)

    def top_up(self) -> None:
        """Fill what is missing with stored groups, as far as they go."""
        again, self._stored = replay.drawn(self._stored, self.missing)
        self._kept += again
        self._replayed += len(again)

    def collected(self, rounds: int) -> Collected:
        """The batch. Raises RunFailed when no group was kept."""
        if not self._kept:
            told = ", ".join(f"{n} {reason}" for reason, n in sorted(self._dropped.items()))
            raise RunFailed(
                f"no group of {rounds} rounds was kept ({told}); widen algo.gate or change the tasks"
            )
        return Collected(
            tuple(self._kept),
            tuple(self._everyone),
            tuple(self._writes),
            self._dropped,
            rounds,
            self._diverted,
            [*self._remember, *self._diverted.get("replay", [])],
            self._stored,
            self._replayed,
        )

    def _count(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1


Round = Callable[[int], Awaitable[Sequence[Group]]]
"""Plays and scores so many more groups."""


async def collect(
    method: Method,
    history: HistoryStore,
    ctx: Ctx,
    n_tasks: int,
    *,
    stored: Sequence[Group] = (),
    oldest: int | None = None,
    play_round: Round | None = None,
) -> Collected:
    """Rollouts until `n_tasks` groups are kept or the rounds are used up.

    `stored` groups fill up what the first round leaves open, before any further round. As long as
    no group at all is kept, rounds go on, up to `PATIENCE` times as many. Without a `play_round`
    the tasks of a round are drawn and played when it is due. Raises RunFailed when the world failed
    every trajectory of a round, or no group was kept.
    """
    made = Assembly(method, history, ctx, n_tasks, stored=stored, oldest=oldest)
    play_round = play_round or _rounds(method, ctx)
    rounds = 0
    while made.missing > 0 and rounds < method.rounds * (1 if made.n_kept else PATIENCE):
        rounds += 1
        groups = await play_round(made.missing)
        _refuse_if_all_failed(groups)
        for group in groups:
            made.take(group)
        made.top_up()
    return made.collected(rounds)


def _rounds(method: Method, ctx: Ctx) -> Round:
    """Rounds whose tasks are drawn when they are due."""
    drawn: Counter[str] = Counter()

    async def one(n: int) -> Sequence[Group]:
        tasks = method.source.next(n, ctx)
        played = await play(tasks, method.plan, method.services, ctx, lambda _: None, drawn)
        return await score(played, method.services)

    return one


def _verdict(
    group: Group, gate: GroupGate | None, history: HistoryStore, ctx: Ctx
) -> Keep | Drop | Divert:
    if not group.trajectories:
        return Drop("aside")
    if not group.scored:
        return Drop("failed")
    if all_stale(group):
        return Drop(STALE)
    return Keep() if gate is None else gate(group, history, ctx)


def _refuse_if_all_failed(groups: Sequence[Group]) -> None:
    failures = [t.error for group in groups for t in group.trajectories if t.error is not None]
    if failures and len(failures) == sum(len(group.trajectories) for group in groups):
        raise RunFailed(f"every rollout of the step failed; the first with: {failures[0]}")


async def score(groups: Sequence[Group], services: Services) -> list[Group]:
    """The groups with every reward function's components added; a lost judge fails a trajectory."""
    if not services.rewards:
        return list(groups)

    async def one(trajectory: Trajectory) -> Trajectory:
        if trajectory.error is not None:
            return trajectory
        try:
            async with asyncio.timeout(SCORE_S):
                for reward in services.rewards:
                    trajectory = trajectory.scored(**await reward(trajectory, services))
        except (WorldFault, TimeoutError) as error:
            told = f"{type(error).__name__}: {error or f'no score within {SCORE_S:g} s'}"
            return replace(trajectory, stop=StopReason.ERROR, error=told)
        return trajectory

    async with asyncio.TaskGroup() as running:
        started = [[running.create_task(one(t)) for t in g.trajectories] for g in groups]
    return [
        replace(group, trajectories=tuple(t.result() for t in tasks))
        for group, tasks in zip(groups, started, strict=True)
    ]


def shape(
    group: Group, shapers: Sequence[RewardShaper], history: HistoryStore, ctx: Ctx
) -> tuple[Group, tuple[Write, ...]]:
    """The group with its scalar (and token) rewards set, and what the shapers wish to remember.

    Shapers see only trajectories that the world did not fail; the others stay in the group, unscored.
    """
    scored = _scored(group)
    if not scored.trajectories:
        return group, ()
    shaped: Shaped = summed(scored)
    writes: list[Write] = []
    for shaper in shapers:
        shaped = shaper(scored, shaped, history, ctx)
        writes.extend(shaped.writes)
    return rewarded(group, _with_failed(group, shaped)), tuple(writes)


def _scored(group: Group) -> Group:
    """The group without failed trajectories, the token rewards that its plan gave included."""
    kept = group.token_rewards
    if kept is not None:
        kept = tuple(r for r, t in zip(kept, group.trajectories, strict=True) if t.error is None)
    return replace(group, trajectories=group.scored, token_rewards=kept)


def _with_failed(group: Group, shaped: Shaped) -> Shaped:
    """The verdict in the order of the whole group, zeros standing in for failed trajectories."""
    places = [i for i, t in enumerate(group.trajectories) if t.error is None]
    by_place = dict(zip(places, shaped.rewards_G, strict=True))
    rewards = floats_array([by_place.get(i, 0.0) for i in range(len(group.trajectories))])
    if shaped.token_rewards_GT is None:
        return Shaped(rewards)
    per_token = dict(zip(places, shaped.token_rewards_GT, strict=True))
    return Shaped(
        rewards,
        tuple(
            per_token[i] if i in per_token else floats_array([0.0] * t.n_tokens)
            for i, t in enumerate(group.trajectories)
        ),
    )


def _admitted(group: Group, keep: Keep) -> Group:
    """The group as its gate lets it in: weighted, named trajectories out of the gradient."""
    members = tuple(
        replace(t, weight=t.weight * keep.weight, excluded=t.excluded or keep.excluded.get(t.uid))
        for t in group.trajectories
    )
    return replace(group, trajectories=members)
