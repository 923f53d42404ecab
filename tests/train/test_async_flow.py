"""Pacing and the feeds, with groups that take as many turns of the event loop as a test wants."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.engine.base import EngineStatistics
from agentrl.errors import RunFailed
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Drop, Keep, Services
from agentrl.train.collect import Collected, Method
from agentrl.train.feed import OneAhead
from agentrl.train.flow import Flow
from agentrl.train.inflight import Finished, InFlight
from agentrl.train.staleness import oldest_version, staleness
from agentrl.train.tickets import Ticket, Tickets, from_json, to_json
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

B = 2
"""Groups of a batch."""


@dataclass
class Clockwork:
    """An engine whose version a test moves."""

    version: int = 0

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(5, 7, 0, 0, 0.0)


@dataclass
class Source:
    """Tasks 0, 1, 2, ..., and the steps they were drawn for."""

    given: int = 0
    steps: list[int] = field(default_factory=list)

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        self.given += n
        self.steps += [ctx.step] * n
        return [Task(str(i), "?") for i in range(self.given - n, self.given)]

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None: ...

    def state(self) -> Mapping[str, Any]:
        return {"given": self.given}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.given = int(state["given"])  # type: ignore[call-overload]


def played(task: Task, ctx: Ctx, versions: Sequence[int], error: str | None = None) -> Group:
    """A group of two; each turn is two tokens of the version it was written under."""
    row = Transcript().append(Segment(Origin.PROMPT, [1]))
    for version in versions:
        row = row.append(Segment(Origin.MODEL, [2, 3], [-1.0, -1.0], version=version))
    again = f"+{ctx.repeat}" if ctx.repeat else ""
    members = tuple(
        Trajectory(
            uid=f"{ctx.step}/{task.id}/{i}{again}", task=task, sibling=i, rows=(row,), messages=(),
            stop=StopReason.TERMINATED if error is None else StopReason.ERROR, error=error,
            rewards={"env": float(i)} if error is None else {},
        )
        for i in range(2)
    )  # fmt: skip
    return Group(task, members, ctx.step)


@dataclass
class Plan:
    """Plays a task for `lengths(i)` turns of the loop, writing under whatever version there is."""

    engine: Clockwork
    lengths: Callable[[int], int]
    most: int = 0
    now: int = 0
    begun: list[int] = field(default_factory=list)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        self.begun.append(int(task.id))
        self.now += 1
        self.most = max(self.most, self.now)
        versions = [self.engine.version]
        for _ in range(self.lengths(int(task.id))):
            await asyncio.sleep(0)
            versions.append(self.engine.version)
        self.now -= 1
        return played(task, ctx, versions)


@dataclass
class World:
    """A feed with everything around it, and a learner that is one integer."""

    staleness: int
    lengths: Callable[[int], int]
    learner_s: Callable[[int], int] = lambda _: 1
    total: int = 8
    engine: Clockwork = field(default_factory=Clockwork)
    source: Source = field(default_factory=Source)
    gate: Any = None
    rounds: int = 1
    stuck_s: float = 30.0
    straggler: float = 3.0
    batches: list[tuple[int, Collected]] = field(default_factory=list)
    """The learner's version when each batch came, and the batch."""
    boundaries: list[tuple[tuple[Ticket, ...], int]] = field(default_factory=list)
    """After each update: what was left, and the source's place."""
    kept: list[tuple[Finished, ...]] = field(default_factory=list)
    """After each update: the groups that were played and not trained on."""

    def __post_init__(self) -> None:
        self.plan = Plan(self.engine, self.lengths)
        self.method = Method(
            source=self.source, plan=self.plan, services=Services(episodes=None),  # type: ignore[arg-type]
            gate=self.gate, rounds=self.rounds,
        )  # fmt: skip

    def feed(
        self, left: Sequence[Ticket] = (), played: Sequence[Finished] = (), *, ahead: bool = False
    ) -> Any:
        inflight = InFlight(self.method, self.engine, self.stuck_s, played)  # type: ignore[arg-type]
        if ahead:
            return OneAhead(self.method, B, left, inflight)
        return Flow(
            self.method, B, self.staleness, left, inflight, straggler=self.straggler, again_s=0.02
        )

    async def run(
        self,
        *,
        ahead: bool = False,
        first: int = 0,
        left: Sequence[Ticket] = (),
        played: Sequence[Finished] = (),
    ) -> None:
        async with asyncio.timeout(60), self.feed(left, played, ahead=ahead) as feed:
            for step in range(first, self.total):
                ctx = Ctx(step=step, total_steps=self.total, seed=0)
                found = await feed.collected(HistoryStore(), ctx, (), self.engine.version)
                self.batches.append((self.engine.version, found))
                feed.learning()
                for _ in range(self.learner_s(step)):
                    await asyncio.sleep(0)
                feed.learnt()
                self.boundaries.append((feed.left(), self.source.given))
                self.kept.append(feed.played())
                await feed.settled()
                self.engine.version += 1
                feed.synced()

    @property
    def everyone(self) -> list[Group]:
        return [group for _, found in self.batches for group in found.everyone]


def lags(version: int, found: Collected) -> list[int]:
    """Of every trained trajectory's oldest token."""
    trained = [t for g in found.kept for t in g.trajectories if t.trainable]
    return [version - (oldest_version(t) or 0) for t in trained]


LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(bound=st.integers(0, 3), turns=LENGTHS, learner=LENGTHS)
async def test_no_trained_token_is_too_old_and_no_group_comes_twice(
    bound: int, turns: list[int], learner: list[int]
):
    """Whatever takes how long: the bound holds, at most (bound + 1) batches are under way, and
    every task drawn is in exactly one batch or left."""
    world = World(bound, lambda i: turns[i % len(turns)], lambda i: learner[i % len(learner)])
    await world.run()
    assert all(lag <= bound for version, found in world.batches for lag in lags(version, found))
    assert all(
        staleness(found.fresh, version)["staleness/max"] <= bound
        for version, found in world.batches
    )
    assert world.plan.most <= (bound + 1) * B
    seen = [int(group.task.id) for group in world.everyone]
    left, given = world.boundaries[-1]
    assert sorted([*seen, *(int(t.task.id) for t in left)]) == list(range(given))
    uids = [t.uid for group in world.everyone for t in group.trajectories]
    assert len(uids) == len(set(uids))


@settings(max_examples=60, deadline=None)
@given(bound=st.integers(0, 3), turns=LENGTHS, learner=LENGTHS)
async def test_what_is_no_straggler_is_never_dropped(
    bound: int, turns: list[int], learner: list[int]
):
    """Pacing and the places kept for older groups are enough, whatever finishes in which order:
    nothing is played in vain, and batches are full."""
    world = World(
        bound, lambda i: turns[i % len(turns)], lambda i: learner[i % len(learner)],
        straggler=float("inf"), total=12,
    )  # fmt: skip
    await world.run()
    assert [found.dropped for _, found in world.batches] == [{}] * 12
    assert [len(found.kept) for _, found in world.batches] == [B] * 12
    assert len(world.plan.begun) == 12 * B


@settings(max_examples=40, deadline=None)
@given(bound=st.integers(1, 3), turns=LENGTHS, learner=LENGTHS, at=st.integers(1, 7))
async def test_a_run_killed_at_any_boundary_loses_and_doubles_nothing(
    bound: int, turns: list[int], learner: list[int], at: int
):
    """What was in flight at the boundary is played again by the resumed run, and only that: what
    was played to its end comes back with the ages it has."""

    def world() -> World:
        return World(bound, lambda i: turns[i % len(turns)], lambda i: learner[i % len(learner)])

    killed, again = world(), world()
    await killed.run()
    left, given = killed.boundaries[at - 1]
    again.source.restore({"given": given})
    again.engine.version = at
    kept = killed.kept[at - 1]
    await again.run(first=at, left=from_json(to_json(left)), played=kept)
    assert not {int(finished.ticket.task.id) for finished in kept} & set(again.plan.begun)
    before = [g for _, found in killed.batches[:at] for g in found.everyone]
    both = [*before, *again.everyone]
    uids = [t.uid for group in both for t in group.trajectories]
    assert len(uids) == len(set(uids))
    seen = sorted(int(group.task.id) for group in both)
    last, drawn = again.boundaries[-1]
    assert sorted([*seen, *(int(t.task.id) for t in last)]) == list(range(drawn))
    assert all(lag <= bound for version, found in again.batches for lag in lags(version, found))


async def test_pacing_by_hand():
    """Bound 1, batches of 2, groups that take no time. At first 4 may be begun. With the first
    batch taken the learner works on version 0, and the other two wait for version 1: none is begun.
    After the sync two more are, which version 2 will train on, one version late.
    """
    world = World(1, lambda _: 0, total=4)
    begun: list[int] = []
    async with world.feed() as feed:
        for step in range(4):
            ctx = Ctx(step=step, total_steps=4, seed=0)
            found = await feed.collected(HistoryStore(), ctx, (), step)
            begun.append(len(world.plan.begun))
            world.batches.append((step, found))
            feed.learning()
            feed.learnt()
            await asyncio.sleep(0)
            begun.append(len(world.plan.begun))
            world.engine.version += 1
            feed.synced()
            await asyncio.sleep(0)
    assert begun == [4, 4, 6, 6, 8, 8, 8, 8]
    assert [lags(v, found) for v, found in world.batches] == [[0] * 4, [1] * 4, [1] * 4, [1] * 4]
    assert world.source.steps == [0, 0, 0, 0, 1, 1, 2, 2]


async def test_a_straggler_is_dropped_under_its_name():
    """Others take 10 ms and an update 60; task 0 takes a second, and nobody waits for it."""
    world = World(2, lambda _: 0, total=30)

    async def slow(task: Task, services: Services, ctx: Ctx) -> Group:
        version = world.engine.version
        await asyncio.sleep(1.0 if task.id == "0" else 0.01)
        return played(task, ctx, [version])

    world.plan.collect = slow  # type: ignore[method-assign]
    async with asyncio.timeout(60), world.feed() as feed:
        for step in range(world.total):
            ctx = Ctx(step=step, total_steps=world.total, seed=0)
            found = await feed.collected(HistoryStore(), ctx, (), step)
            world.batches.append((step, found))
            feed.learning()
            await asyncio.sleep(0.06)
            feed.learnt()
            world.engine.version += 1
            feed.synced()
    assert sum(found.dropped.get("stale", 0) for _, found in world.batches) == 1
    (stale,) = [g for g in world.everyone if g.task.id == "0"]
    assert [t.excluded for t in stale.trajectories] == ["stale", "stale"]
    assert all(len(found.kept) == B for _, found in world.batches)


async def test_rollouts_within_the_bound_are_never_dropped():
    """Each is played over two updates, with a bound of two: partial rollouts, all of them trained."""
    world = World(2, lambda _: 6, learner_s=lambda _: 3, total=12)
    await world.run()
    assert all(not found.dropped for _, found in world.batches)
    mixed = [staleness(found.fresh, v)["staleness/mixed_rows"] for v, found in world.batches]
    assert max(mixed) == 1.0


async def test_the_oldest_versions_come_first():
    """Arrived: version 2, then 1, then 1 again. The batch has them by version, then by arrival."""
    world = World(5, lambda _: 0)
    ctx = Ctx(step=0, total_steps=1, seed=0)
    tickets = [Ticket(0, Task(name, "?")) for name in "abc"]
    inflight = InFlight(world.method, world.engine, 1.0)  # type: ignore[arg-type]
    for ticket, version in zip(tickets, (2, 1, 1), strict=True):
        inflight.finished.append(Finished(ticket, played(ticket.task, ctx, [version])))
    async with Flow(world.method, 3, 5, tickets, inflight) as feed:
        found = await feed.collected(HistoryStore(), ctx, (), 2)
    assert [g.task.id for g in found.kept] == ["b", "c", "a"]
    assert world.plan.begun == []


async def test_dropped_groups_are_replaced_within_a_batch():
    """A gate drops every third task; batches stay full and nothing is drawn in vain."""
    world = World(
        1, lambda _: 1, total=4, rounds=3,
        gate=lambda g, h, c: Drop("third") if int(g.task.id) % 3 == 0 else Keep(),
    )  # fmt: skip
    await world.run()
    assert [len(found.kept) for _, found in world.batches] == [B] * 4
    assert sum(found.dropped.get("third", 0) for _, found in world.batches) >= 2


async def test_a_gate_that_keeps_nothing_ends_the_run():
    world = World(1, lambda _: 0, gate=lambda g, h, c: Drop("easy"), rounds=2)
    with pytest.raises(RunFailed, match=r"no group of 10 rounds was kept \(20 easy\)"):
        await world.run()


async def test_a_dead_world_ends_the_run():
    """Every rollout fails: a batch's worth of failures in a row is enough."""
    world = World(2, lambda _: 0)

    async def failing(task: Task, services: Services, ctx: Ctx) -> Group:
        await asyncio.sleep(0)
        return played(task, ctx, [0], error="EngineError: engine died")

    world.plan.collect = failing  # type: ignore[method-assign]
    feed = world.feed()
    with pytest.raises(RunFailed, match="2 groups in a row failed; the last with: EngineError"):
        async with asyncio.timeout(60), feed:
            await feed.collected(HistoryStore(), Ctx(step=0, total_steps=1, seed=0), (), 0)
    assert feed.played() == ()
    assert [t.task.id for t in feed.left()][:2] == ["0", "1"]


@pytest.mark.parametrize("ahead", [True, False])
async def test_a_hanging_group_is_named(ahead: bool):
    world = World(1, lambda _: 0, stuck_s=0.3)

    async def hanging(task: Task, services: Services, ctx: Ctx) -> Group:
        await asyncio.sleep(600 if task.id in ("0", "1", "2", "3") else 0)
        raise AssertionError("not reached")

    world.plan.collect = hanging  # type: ignore[method-assign]
    with pytest.raises(RunFailed) as raised:
        await world.run(ahead=ahead)
    told = str(raised.value)
    assert "no group of rollouts was finished for 0.3 s" in told
    assert re.search(r"task 0 for \d+ s \(begun under version 0\)", told)
    assert "the engine runs 5 requests and 7 wait" in told


@pytest.mark.parametrize("ahead", [True, False])
async def test_a_bug_in_one_group_calls_the_others_off(ahead: bool):
    world = World(1, lambda _: 0)
    ended: list[str] = []

    async def broken(task: Task, services: Services, ctx: Ctx) -> Group:
        try:
            await asyncio.sleep(0.01 if task.id == "1" else 600)
            raise KeyError("a bug")
        finally:
            ended.append(task.id)

    world.plan.collect = broken  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as raised:
        await world.run(ahead=ahead)
    assert raised.group_contains(KeyError)
    assert sorted(ended) == [str(i) for i in range(2 if ahead else 4)]


async def test_one_ahead_by_hand():
    """Step k + 1 is drawn and played during the update of step k: one version old, in task order."""
    world = World(0, lambda i: 5 - i % 5, learner_s=lambda _: 2, total=4)
    await world.run(ahead=True)
    order = [[g.task.id for g in found.kept] for _, found in world.batches]
    assert order == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
    assert [set(lags(v, found)) for v, found in world.batches] == [{0}, {1}, {1}, {1}]
    assert world.source.steps == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [[t.task.id for t in left] for left, _ in world.boundaries] == [
        ["2", "3"], ["4", "5"], ["6", "7"], [],
    ]  # fmt: skip


async def test_one_ahead_goes_on_with_what_was_left():
    killed = World(0, lambda i: 5 * (i % 2), learner_s=lambda _: 3, total=4)
    again = World(0, lambda _: 1, total=4)
    await killed.run(ahead=True)
    left, given = killed.boundaries[1]
    again.source.restore({"given": given})
    half = killed.kept[1]
    assert [f.ticket.task.id for f in half] == ["4"]
    await again.run(ahead=True, first=2, left=left, played=half)
    assert again.plan.begun == [5, 6, 7]
    assert [g.task.id for g in again.everyone] == ["4", "5", "6", "7"]
    assert [t.uid for g in again.everyone for t in g.trajectories] == [
        t.uid for _, found in killed.batches[2:] for g in found.everyone for t in g.trajectories
    ]


async def test_what_was_played_for_a_step_long_past_is_forgotten():
    """A group whose task is drawn for another step this time would stay in every checkpoint."""
    world = World(1, lambda _: 0, total=3)
    orphan = Ticket(0, Task("gone", "?"))
    ctx = Ctx(step=0, total_steps=3, seed=0)
    kept = Finished(orphan, played(orphan.task, ctx, [0]))
    async with world.feed((), (kept,)) as feed:
        assert feed.played() == (kept,)
        for step in range(2):
            await feed.collected(HistoryStore(), replace(ctx, step=step), (), step)
            feed.learning()
            feed.learnt()
            feed.synced()
        assert "gone" not in {finished.ticket.task.id for finished in feed.played()}


async def test_one_ahead_asks_for_further_rounds_when_they_are_due():
    """Task 0 is dropped; its replacement is played under the version that trains it."""
    world = World(
        0, lambda _: 0, total=2, rounds=2,
        gate=lambda g, h, c: Drop("zero") if g.task.id == "0" else Keep(),
    )  # fmt: skip
    await world.run(ahead=True)
    order = [[g.task.id for g in found.kept] for _, found in world.batches]
    assert order == [["1", "2"], ["3", "4"]]


def test_a_task_that_comes_again_in_a_step_has_a_ticket_of_its_own():
    """One-shot sources: also after a resume, and among those drawn for the step before it began."""

    class One(Source):
        def next(self, n: int, ctx: Ctx) -> list[Task]:
            return [Task("only", "?")] * n

    tickets = Tickets()
    at = Ctx(step=3, total_steps=9, seed=0)
    first = tickets.draw(One(), 2, at)
    tickets.close(first[:1])
    resumed = Tickets(from_json(to_json(tickets.left)))
    later = [*resumed.draw(One(), 1, at), *resumed.draw(One(), 1, replace(at, step=4))]
    assert [(t.step, t.repeat) for t in (*first, *later)] == [(3, 0), (3, 1), (3, 2), (4, 0)]
    assert [t.key for t in resumed.left] == [(3, "only", 1), (3, "only", 2), (4, "only", 0)]


def test_staleness_by_hand():
    """A learner at version 5. Tokens of versions 3, 3, 4, 4 and 5, 5: ages 2, 2, 1, 1, 0, 0, twice.

    One of the two groups' rows has two versions.
    """
    task, ctx = Task("t", "?"), Ctx(step=0, total_steps=1, seed=0)
    groups = [played(task, ctx, [3, 4]), played(task, ctx, [5])]
    assert staleness(groups, 5) == {
        "staleness/mean": 1.0, "staleness/max": 2.0, "staleness/mixed_rows": 0.5,
        "staleness/excluded": 0.0,
    }  # fmt: skip


async def test_idle_shares_by_hand():
    """The learner waits for 0.2 of 0.3 seconds; rollouts are played in those 0.2 only."""
    world = World(0, lambda _: 0)

    async def slow(task: Task, services: Services, ctx: Ctx) -> Group:
        await asyncio.sleep(0.2)
        return played(task, ctx, [0])

    world.plan.collect = slow  # type: ignore[method-assign]
    async with world.feed() as feed:
        ctx = Ctx(step=0, total_steps=1, seed=0)
        await feed.collected(HistoryStore(), ctx, (), 0)
        feed.learning()
        await asyncio.sleep(0.1)
        metrics = feed.metrics()
    assert metrics["idle/learner"] > 0.1
    assert metrics["idle/rollouts"] > 0.05
    assert metrics["idle/learner"] + metrics["idle/rollouts"] == pytest.approx(1.0, abs=0.2)
