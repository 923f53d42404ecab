"""One step's groups: what shapers see, what gates do, what is remembered, what ends a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from agentrl.algo.batch import make_batch
from agentrl.algo.gates import AccuracyBand
from agentrl.errors import RunFailed, SandboxError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx, Divert, Drop, Keep, Services, Shaped, Verdict
from agentrl.rewards.otc import NAMESPACE, OTC
from agentrl.train.collect import Method, collect, score, shape
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import floats_array
from agentrl.types import Task

CTX = Ctx(step=4, total_steps=9, seed=0)
SERVICES = Services(episodes=None)  # type: ignore[arg-type]


@dataclass
class Source:
    """Hands out numbered tasks."""

    asked: list[int] = field(default_factory=list)
    given: int = 0

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        self.asked.append(n)
        self.given += n
        return [Task(f"q{i}", "?") for i in range(self.given - n, self.given)]

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None: ...

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Plan:
    """Groups whose rewards are a function of the task's number; None: the world failed it."""

    def __init__(self, hand: Any, rewards: Callable[[int], Sequence[float | None]]) -> None:
        self.hand, self.rewards = hand, rewards

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        rewards = self.rewards(int(task.id[1:]))
        members = [self.hand.trajectory(task, i, r, step=ctx.step) for i, r in enumerate(rewards)]
        return Group(task, tuple(members), ctx.step)


def method(hand: Any, rewards: Any, **changes: Any) -> Method:
    return Method(source=Source(), plan=Plan(hand, rewards), services=SERVICES, **changes)


@dataclass
class Remember:
    """Sets every reward to what history holds of the task, and offers one more."""

    seen: list[float | None] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        self.seen.append(history.get("n", group.task.id))
        self.groups.append(group)
        writes = tuple(Write("n", group.task.id, 1.0, "sum", t.uid) for t in group.trajectories)
        return shaped._replace(writes=writes)


def gate(verdicts: Mapping[str, Verdict]) -> Any:
    return lambda group, history, ctx: verdicts.get(group.task.id, Keep())


async def test_rewards_are_summed_components(hand: Any):
    found = await collect(method(hand, lambda i: (1.0, 0.0)), HistoryStore(), CTX, 2)
    assert [g.task.id for g in found.kept] == ["q0", "q1"]
    assert [t.reward for g in found.kept for t in g.trajectories] == [1.0, 0.0, 1.0, 0.0]
    assert (found.rounds, found.dropped) == (1, {})


async def test_shapers_see_the_committed_view_only(hand: Any):
    """Two siblings offer 1 each; the next step sees 2, not the step that wrote them."""
    remember, history = Remember(), HistoryStore()
    plan = method(hand, lambda i: (1.0, 0.0), shapers=[remember])
    found = await collect(plan, history, CTX, 2)
    assert remember.seen == [None, None]
    assert history.get("n", "q0") is None
    history.commit(found.writes)
    assert history.get("n", "q0") == 2.0


async def test_writes_of_dropped_groups_are_committed_once(hand: Any):
    remember, history = Remember(), HistoryStore()
    plan = method(
        hand, lambda i: (1.0, 0.0, 1.0), shapers=[remember], gate=gate({"q1": Drop("easy")}),
    )  # fmt: skip
    found = await collect(plan, history, CTX, 2)
    assert [g.task.id for g in found.kept] == ["q0"]
    assert [g.task.id for g in found.everyone] == ["q0", "q1"]
    history.commit((*found.writes, *found.writes))
    assert history.get("n", "q1") == 3.0


async def test_shapers_are_chained_and_each_keeps_its_writes(hand: Any):
    """OTC sees the first shaper's rewards; both offer their own."""
    remember = Remember()
    plan = method(hand, lambda i: (1.0, 1.0), shapers=[remember, OTC()])
    found = await collect(plan, HistoryStore(), CTX, 1)
    assert sorted({w.namespace for w in found.writes}) == sorted({"n", NAMESPACE})
    assert len(found.writes) == 4


async def test_a_gate_keeps_drops_and_refills(hand: Any):
    """Tasks 0, 1 and 3 are flat; three groups take three rounds: 3, then 2, then 1 tasks."""
    flat = {0, 1, 3}
    plan = method(
        hand, lambda i: (1.0, 1.0) if i in flat else (1.0, 0.0), gate=AccuracyBand(), rounds=5
    )
    found = await collect(plan, HistoryStore(), CTX, 3)
    assert [g.task.id for g in found.kept] == ["q2", "q4", "q5"]
    assert plan.source.asked == [3, 2, 1]
    assert (found.rounds, found.dropped) == (3, {"easy": 3})
    assert len(found.everyone) == 6


async def test_the_first_group_is_waited_for_longer_than_the_others(hand: Any):
    """Two rounds of three are bounded away, but the run does not end for it: the sixth task is kept."""
    plan = method(
        hand, lambda i: (1.0, 0.0) if i >= 6 else (1.0, 1.0), gate=AccuracyBand(), rounds=2
    )
    found = await collect(plan, HistoryStore(), CTX, 3)
    assert (len(found.kept), found.rounds, found.dropped) == (3, 3, {"easy": 6})


async def test_rounds_are_bounded(hand: Any):
    plan = method(
        hand, lambda i: (1.0, 0.0) if i == 0 else (0.0, 0.0), gate=AccuracyBand(), rounds=2
    )
    found = await collect(plan, HistoryStore(), CTX, 2)
    assert (len(found.kept), found.rounds, found.dropped) == (1, 2, {"hard": 2})


async def test_weights_and_diversions(hand: Any):
    plan = method(
        hand, lambda i: (1.0, 0.0),
        gate=gate({"q0": Keep(weight=0.5), "q1": Divert("sft", "too hard")}),
    )  # fmt: skip
    found = await collect(plan, HistoryStore(), CTX, 3)
    assert [[t.weight for t in g.trajectories] for g in found.kept] == [[0.5, 0.5], [1.0, 1.0]]
    assert found.dropped == {"too hard": 1}


async def test_a_gate_that_drops_everything_ends_the_run(hand: Any):
    plan = method(hand, lambda i: (0.0, 0.0), gate=AccuracyBand(), rounds=2)
    with pytest.raises(RunFailed, match=r"no group of 10 rounds was kept \(10 hard\)"):
        await collect(plan, HistoryStore(), CTX, 1)


async def test_all_failed_ends_the_run(hand: Any):
    with pytest.raises(
        RunFailed, match="every rollout of the step failed; the first with: Sandbox"
    ):
        await collect(method(hand, lambda i: (None, None)), HistoryStore(), CTX, 2)


async def test_a_judge_that_fails_everyone_ends_the_run_too(hand: Any):
    async def judge(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        raise SandboxError("the judge is away")

    plan = replace(
        method(hand, lambda i: (1.0, 0.0)),
        services=Services(episodes=None, rewards=[judge]),  # type: ignore[arg-type]
    )
    with pytest.raises(RunFailed, match="SandboxError: the judge is away"):
        await collect(plan, HistoryStore(), CTX, 1)


async def test_errored_trajectories_stay_in_the_record_and_out_of_statistics(hand: Any):
    """Rewards 1, failed, 0: shapers see two; the batch has two rows; the record three."""
    remember = Remember()
    found = await collect(
        method(hand, lambda i: (1.0, None, 0.0), shapers=[remember]), HistoryStore(), CTX, 1
    )
    assert [t.sibling for t in remember.groups[0].trajectories] == [0, 2]
    assert [t.reward for t in found.everyone[0].trajectories] == [1.0, None, 0.0]
    assert make_batch(found.kept, pad_id=0).rewards.tolist() == [1.0, 0.0]


async def test_a_group_that_failed_whole_is_dropped_and_named(hand: Any):
    remember = Remember()
    plan = method(hand, lambda i: (None, None) if i == 0 else (1.0, 0.0), shapers=[remember])
    found = await collect(plan, HistoryStore(), CTX, 2)
    assert [g.task.id for g in found.kept] == ["q1"]
    assert (found.dropped, len(found.everyone)) == ({"failed": 1}, 2)
    assert [g.task.id for g in remember.groups] == ["q1"]


def test_token_rewards_stay_with_their_trajectory(hand: Any):
    """Three tokens each; the failed one in the middle gets zeros in its place."""

    def per_token(group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        tokens = tuple(floats_array([0.0, 0.0, 10.0 + t.sibling]) for t in group.trajectories)
        return shaped._replace(token_rewards_GT=tokens)

    group, _ = shape(hand.group("q0", 1.0, None, 0.0), [per_token], HistoryStore(), CTX)
    assert [r.tolist() for r in group.token_rewards] == [[0, 0, 10], [0, 0, 0], [0, 0, 12]]
    batch = make_batch([group], pad_id=0)
    assert batch.token_rewards[:, 2].tolist() == [10.0, 12.0]


async def test_reward_functions_add_components(hand: Any):
    async def length(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        return {"length": -0.25 * trajectory.n_sampled}

    async def fussy(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        if trajectory.sibling == 1:
            raise SandboxError("the judge is away")
        return {"judge": 0.5}

    services = Services(episodes=None, rewards=[length, fussy])  # type: ignore[arg-type]
    (group,) = await score([hand.group("q0", 1.0, 0.0, None)], services)
    first, lost, failed = group.trajectories
    assert first.rewards == {"env": 1.0, "length": -0.5, "judge": 0.5}
    assert (lost.stop, lost.error) == (StopReason.ERROR, "SandboxError: the judge is away")
    assert (failed.error, failed.rewards) == ("SandboxError: lost", {})
    shaped, _ = shape(group, (), HistoryStore(), CTX)
    assert [t.reward for t in shaped.trajectories] == [1.0, None, None]


async def test_a_bug_in_a_reward_crashes(hand: Any):
    async def broken(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        raise KeyError("a bug")

    services = Services(episodes=None, rewards=[broken])  # type: ignore[arg-type]
    with pytest.raises(ExceptionGroup) as raised:
        await score([hand.group("q0", 1.0)], services)
    assert raised.group_contains(KeyError)


async def test_otc_across_two_steps_by_hand(hand: Any):
    """Step 1: a correct answer with 2 calls sets n = 2. Step 2: one with 4 calls.

    f = 2 m n / (m + n) = 16 / 6, sin(f pi / (2 n)) = sin(16/6 * pi/4) = sin(2 pi / 3) = 0.8660.
    """
    history = HistoryStore()

    class Calls:
        def __init__(self, n_calls: int) -> None:
            self.n_calls = n_calls

        async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
            one = hand.trajectory(task, 0, 1.0, step=ctx.step, calls=[None] * self.n_calls)
            return Group(task, (one,), ctx.step)

    rewards = []
    for step, n_calls in enumerate((2, 4)):
        plan = Method(
            source=Source(), plan=Calls(n_calls), services=SERVICES, shapers=[OTC()]
        )  # fmt: skip
        found = await collect(plan, history, replace(CTX, step=step), 1)
        history.commit(found.writes)
        rewards.append(found.kept[0].trajectories[0].reward)
    assert rewards == pytest.approx([1.0, np.sin(2 * np.pi / 3)])
    assert history.get(NAMESPACE, "q0") == 2.0


async def test_a_task_drawn_again_in_a_step_is_sampled_anew(hand: Any):
    """One-shot: the same task three times in the first round, once more in the second."""
    repeats: list[int] = []

    class One(Source):
        def next(self, n: int, ctx: Ctx) -> list[Task]:
            return [Task("only", "?")] * n

    class Counts(Plan):
        async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
            repeats.append(ctx.repeat)
            group = hand.group(task.id, 1.0, 0.0)
            members = [replace(t, uid=f"{t.uid}+{ctx.repeat}") for t in group.trajectories]
            return Group(task, tuple(members), ctx.step)

    gated: list[Verdict] = [Drop("first"), Keep(), Keep(), Keep()]
    plan = Method(
        source=One(), plan=Counts(hand, lambda i: ()), services=SERVICES,
        gate=lambda *_: gated.pop(0), rounds=2,
    )  # fmt: skip
    found = await collect(plan, HistoryStore(), CTX, 3)
    assert repeats == [0, 1, 2, 3]
    uids = [t.uid for g in found.everyone for t in g.trajectories]
    assert len(uids) == len(set(uids)) == 8
