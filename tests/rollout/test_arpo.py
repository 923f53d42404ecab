"""ARPO's trees on scripted policies: who branches where, what is shared, and that the budget holds.

A policy here is a function of its row and its seed, so what a path writes never depends on when it
came to write it; the environment answers after random waits and fails where a test says so.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.engine.base import Generation, Sampling
from agentrl.engine.scripted import Reply
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import SandboxError, UserError
from agentrl.points import Ctx, RolloutPlan, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Names
from agentrl.rollout.plans.aepo import Aepo
from agentrl.rollout.plans.arpo import Arpo
from agentrl.trajectory import Group, StopReason
from agentrl.transcript import Origin
from agentrl.types import Message, Task, ToolResult
from agentrl_envs.tool_env import ToolEnv

CTX = Ctx(step=2, total_steps=5, seed=1)
CALL, ANSWER, BROKEN = "<code>go</code>", "done", "<code></code>"
Turn = tuple[str, float]
"""What a turn says, and the entropy of each of its tokens as a share of ln V."""
Policy = Callable[[int, int], Turn]
"""(tool results so far, sampling seed) -> the turn."""


@dataclass
class Ledger:
    """What the environments of a test did."""

    made: int = 0
    calls: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random())
    wait_s: float = 0.0
    fails: Callable[[int], bool] = lambda call: False
    """Whether the world fails at this call of all."""


class Walk(ToolEnv):
    """Each call is answered with how many there were; an answer's worth is that number."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger, self.steps = ledger, 0
        ledger.made += 1

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if self.ledger.wait_s:
            await asyncio.sleep(self.ledger.rng.random() * self.ledger.wait_s)
        if action.parse_error:
            return StepResult((Message("tool", "?"),), 0.0, False, False, StepInfo())
        if not action.tool_calls:
            return StepResult((), float(self.steps), True, False, StepInfo(answer=action.text))
        self.ledger.calls += 1
        if self.ledger.fails(self.ledger.calls):
            raise SandboxError("the sandbox is gone")
        self.steps += 1
        call = action.tool_calls[0]
        result = ToolResult(call.id, str(self.steps))
        shown = Message("tool", str(self.steps), call_id=call.id, name=call.name)
        return StepResult((shown,), 0.0, False, False, StepInfo(results=(result,)))

    async def judge(self, action: Action) -> StepResult:
        raise AssertionError


@dataclass
class Stage:
    """Plays plans on a policy."""

    world: Any
    ledger: Ledger = field(default_factory=Ledger)
    group_seed: int = 7
    sampled: list[Generation] = field(default_factory=list)

    def engine(self, policy: Policy, *, entropies: bool = True) -> Any:
        log_v = math.log(self.world.renderer.tokenizer.vocab_size)

        def write(row: Any, sampling: Sampling, index: int) -> Reply:
            text = self.world.renderer.tokenizer.decode(np.asarray(row))
            said, share = policy(text.count("</code>"), sampling.seed)
            ids = self.world.renderer.demo(said, ended=said == ANSWER).tolist()
            return Reply(ids, [-0.5] * len(ids), [share * log_v] * len(ids))

        engine = self.world.script(write)
        if not entropies:
            generate = engine.generate

            async def without(token_ids: Any, sampling: Sampling) -> Generation:
                return await generate(token_ids, replace(sampling, entropies=False))

            engine.generate = without
        return engine

    def services(self, engine: Any, *, in_flight: int = 128, **limits: Any) -> Services:
        parts = self.world.parts(engine, lambda: Walk(self.ledger), **limits)
        return Services(Episodes(parts, seed=self.group_seed, in_flight=in_flight, retries=0))

    async def group(self, plan: RolloutPlan, policy: Policy, ctx: Ctx = CTX, **more: Any) -> Group:
        return await plan.collect(self.world.task, self.services(self.engine(policy), **more), ctx)

    def plan(self, size: int = 8, **options: Any) -> Arpo:
        return Arpo(group_size=size, renderer=self.world.renderer, **options)

    async def collect(self, plan: RolloutPlan, engine: Any) -> Group:
        return await plan.collect(self.world.task, self.services(engine), CTX)


@pytest.fixture
def stage(world: Any) -> Stage:
    return Stage(world)


def calls_then_answer(*shares: float, calls: int | None = None) -> Policy:
    """Calls `calls` times (once less than there are shares), turn t at `shares[t]` of ln V."""
    n = len(shares) - 1 if calls is None else calls

    def policy(results: int, seed: int) -> Turn:
        return (CALL if results < n else ANSWER, shares[min(results, len(shares) - 1)])

    return policy


def tree(group: Group) -> dict[int, tuple[int, int]]:
    """Branch -> (the sibling it left, the tool results they share)."""
    by_uid = {t.uid: t for t in group.trajectories}
    found: dict[int, tuple[int, int]] = {}
    for t in group.trajectories:
        if t.parent is None:
            continue
        parent = by_uid[t.parent]
        n = t.fork_tokens or 0
        assert t.rows[0].token_ids[:n].tolist() == parent.rows[0].token_ids[:n].tolist()
        observed = [s.origin for s in t.rows[0].fork(n).segments].count(Origin.OBSERVATION)
        found[t.sibling] = (parent.sibling, observed)
    return found


def check_whole(group: Group, size: int) -> None:
    """The budget exactly, everybody once, and law 2: what is trained has a behaviour logprob."""
    assert [t.sibling for t in group.trajectories] == list(range(size))
    assert len({t.uid for t in group.trajectories}) == size
    for t in group.trajectories:
        for row in t.rows:
            sampled = np.isin(row.origins, [Origin.MODEL, Origin.FORCED])
            assert row.mask.tolist() == sampled.tolist()
            assert (row.logprobs[row.mask] == np.float32(-0.5)).all(), "as the engine said"
            assert (row.logprobs[~row.mask] == 0).all()


async def test_a_rise_after_the_result_branches_a_fall_does_not(stage: Stage) -> None:
    """4 roots, 8 places: 0.1 -> 0.2 makes one copy each, 0.2 -> 0.1 none; the rest are fresh."""
    rising = await stage.group(stage.plan(), calls_then_answer(0.1, 0.2))
    assert tree(rising) == {4: (0, 1), 5: (1, 1), 6: (2, 1), 7: (3, 1)}
    check_whole(rising, 8)
    assert sum(t.n_executed for t in rising.trajectories) == stage.ledger.calls == 4
    assert [t.n_calls for t in rising.trajectories] == [1] * 8
    stage.ledger.calls = 0
    falling = await stage.group(stage.plan(), calls_then_answer(0.2, 0.1))
    assert tree(falling) == {}
    check_whole(falling, 8)
    assert sum(t.n_executed for t in falling.trajectories) == stage.ledger.calls == 8


@pytest.mark.parametrize(
    ("options", "shares", "branches"),
    [
        ({}, (0.2, 0.1), 0),
        ({"tau": 0.47}, (0.2, 0.1), 4),  # 0.5 + 0.2 x -0.1 = 0.48
        ({"tau": 0.49}, (0.2, 0.1), 0),
        ({"tau": 0.49, "alpha": 0.52}, (0.2, 0.1), 4),
        ({"tau": 0.47, "beta": 0.4}, (0.2, 0.1), 0),  # 0.5 - 0.04 = 0.46
        ({"tau": 0.55}, (0.1, 0.4), 4),  # 0.5 + 0.2 x 0.3 = 0.56
        ({"tau": 0.55, "beta": 0.1}, (0.1, 0.4), 0),
    ],
)
async def test_alpha_beta_and_tau_decide(
    stage: Stage, options: dict[str, float], shares: tuple[float, float], branches: int
) -> None:
    group = await stage.group(stage.plan(**options), calls_then_answer(*shares))
    assert len(tree(group)) == branches


async def test_only_the_first_k_tokens_are_read(stage: Stage) -> None:
    """A turn that starts calm and grows wild: k = 2 sees the calm, k = 20 the wild."""
    log_v = math.log(stage.world.renderer.tokenizer.vocab_size)

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        called = "</code>" in stage.world.renderer.tokenizer.decode(np.asarray(row))
        ids = stage.world.renderer.demo(ANSWER if called else CALL, ended=called).tolist()
        shares = [0.0, 0.0] + [0.5] * (len(ids) - 2) if called else [0.1] * len(ids)
        return Reply(ids, [-0.5] * len(ids), [share * log_v for share in shares])

    for k, branches in ((2, 0), (20, 4)):
        services = stage.services(stage.world.script(write))
        group = await stage.plan(first_tokens=k).collect(stage.world.task, services, CTX)
        assert len(tree(group)) == branches


async def test_h_initial_is_the_mean_over_the_tasks_roots(stage: Stage) -> None:
    """Roots begin at 0.1 and 0.3 in turn, all go on at 0.25: above the mean 0.2 of any even split."""

    def policy(results: int, seed: int) -> Turn:
        if results:
            return ANSWER, 0.25
        return CALL, 0.1 if seed in low else 0.3

    names = Names.of(stage.group_seed, stage.world.task, CTX)
    low = {names.seeds(sibling).turn(0) for sibling in (0, 2)}
    assert len(tree(await stage.group(stage.plan(), policy))) == 4
    low.clear()
    assert tree(await stage.group(stage.plan(), policy)) == {}, "all began at 0.3"


async def test_h_initial_of_an_earlier_step_or_task_does_not_leak(stage: Stage) -> None:
    """Regression: the released code kept the first batch's values by slot for ever."""
    plan = stage.plan()
    calm = await stage.group(plan, calls_then_answer(0.05, 0.06))
    assert len(tree(calm)) == 4
    wild = await stage.group(plan, calls_then_answer(0.5, 0.4), replace(CTX, step=3))
    assert tree(wild) == {}, "0.4 rises above the 0.05 of before, not above its own 0.5"
    other = replace(stage.world, task=Task("u", "Q2", "4", seed=3))
    elsewhere = Stage(other)
    assert tree(await elsewhere.group(plan, calls_then_answer(0.5, 0.4))) == {}
    assert len(tree(await stage.group(plan, calls_then_answer(0.05, 0.06)))) == 4


async def test_the_budget_is_one_for_the_task_and_given_out_in_order(stage: Stage) -> None:
    """2 roots, 3 free places, 2 copies each: root 0 takes two, root 1 what is left, then nobody."""
    plan = stage.plan(5, initial=2, copies=2)
    group = await stage.group(plan, calls_then_answer(0.1, 0.2, 0.3))
    assert tree(group) == {2: (0, 1), 3: (0, 1), 4: (1, 1)}
    check_whole(group, 5)


async def test_branches_branch_again_at_later_results(stage: Stage) -> None:
    """1 root, 1 copy: after the first result 0 -> 1, after the second 0 -> 2 and 1 -> 3."""
    group = await stage.group(stage.plan(4, initial=1), calls_then_answer(0.1, 0.2, 0.3))
    assert tree(group) == {1: (0, 1), 2: (0, 2), 3: (1, 2)}
    assert [t.n_executed for t in group.trajectories] == [2, 1, 0, 0]
    assert [t.n_calls for t in group.trajectories] == [2, 2, 2, 2]
    assert [t.rewards["env"] for t in group.trajectories] == [2.0] * 4, "each world its own count"


async def test_nobody_branches_where_nothing_was_run(stage: Stage) -> None:
    """An unreadable action is answered too, and that answer is no tool result."""

    def policy(results: int, seed: int) -> Turn:
        return (BROKEN if results == 0 else ANSWER, 0.1 + 0.3 * results)

    group = await stage.group(stage.plan(4), policy)
    assert tree(group) == {}
    assert [t.n_turns for t in group.trajectories] == [2] * 4


@pytest.mark.parametrize(("probability", "branches"), [(0.0, 0), (1.0, 4)])
async def test_the_control_needs_no_entropies(
    stage: Stage, probability: float, branches: int
) -> None:
    engine = stage.engine(calls_then_answer(0.0, 0.0), entropies=False)
    plan = Arpo(group_size=8, form="fixed", probability=probability)
    group = await plan.collect(stage.world.task, stage.services(engine), CTX)
    assert len(tree(group)) == branches
    check_whole(group, 8)


async def test_the_control_branches_as_often_as_it_says(stage: Stage) -> None:
    """400 roots with room for all: within 4 standard deviations of 0.3."""
    plan = stage.plan(800, initial=400, form="fixed", probability=0.3)
    n = len(tree(await stage.group(plan, calls_then_answer(0.0, 0.0))))
    assert abs(n - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5


async def test_the_code_form_reads_the_turn_that_called(stage: Stage) -> None:
    """A first call has dH = 0, so `probability` alone decides; a second call's rise counts.

    Entropies are summed: a call of n tokens at 0.1 of ln V more has dH = 0.1 n.
    """
    n = len(stage.world.renderer.demo(CALL))
    assert 2 <= n <= 20
    only_second = stage.plan(form="code", probability=0.0, weight=1000.0)
    group = await stage.group(only_second, calls_then_answer(0.1, 0.2, 0.0, calls=2))
    assert {shared for _, shared in tree(group).values()} == {2}
    assert len(tree(group)) == 4
    first = stage.plan(form="code", probability=1.0, weight=0.0)
    group = await stage.group(first, calls_then_answer(0.1, 0.2, 0.0, calls=2))
    assert {shared for _, shared in tree(group).values()} == {1}
    never = stage.plan(form="code", probability=0.0)
    assert tree(await stage.group(never, calls_then_answer(0.2, 0.1, 0.0, calls=2))) == {}


async def test_an_engine_without_entropies_is_told_apart_from_certainty(stage: Stage) -> None:
    engine = stage.engine(calls_then_answer(0.1, 0.2), entropies=False)
    with pytest.raises(ExceptionGroup) as caught:
        await stage.plan().collect(stage.world.task, stage.services(engine), CTX)
    (error,) = {str(e) for e in caught.value.exceptions}
    assert isinstance(caught.value.exceptions[0], UserError)
    assert "the engine gave none" in error


async def test_a_limit_ends_a_path_without_a_token_nobody_sampled(stage: Stage) -> None:
    """Regression: the released code appended an end token with mask 1 at the limit of calls."""
    policy = calls_then_answer(0.1, 0.2, 0.3, 0.4, 0.5)
    group = await stage.group(stage.plan(4, initial=2), policy, max_calls=2)
    check_whole(group, 4)
    assert {t.stop for t in group.trajectories} == {StopReason.MAX_CALLS}
    ends = [t.rows[0].segments[-1] for t in group.trajectories]
    assert {s.origin for s in ends} == {Origin.MODEL}
    assert {stage.world.renderer.tokenizer.decode(s.token_ids) for s in ends} == {CALL}


async def test_a_failed_root_is_played_again_and_its_branches_live_on(stage: Stage) -> None:
    """1 root, 3 copies at the first result; the root's second call is where the world fails.

    The branch 1 takes its place: it owns the first call now, and 2 and 3 hang on it.
    """
    stage.ledger.fails = lambda call: call == 2
    policy = calls_then_answer(0.1, 0.2, 0.1)
    group = await stage.group(stage.plan(4, initial=1, copies=3), policy)
    check_whole(group, 4)
    assert [t.error for t in group.trajectories] == [None] * 4
    assert tree(group) == {2: (1, 1), 3: (1, 1)}
    assert group.trajectories[0].n_executed == 2, "from the prompt, on its own"
    executed = sum(t.n_executed for t in group.trajectories)
    assert executed == stage.ledger.calls - 1, "all but the call that never came back"


async def test_a_root_that_cannot_start_is_played_again(world: Any) -> None:
    """Regression: short groups were filled with copies of the last row."""
    tried: list[int] = []

    class Slow(Walk):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            tried.append(1)
            if len(tried) == 1:
                raise SandboxError("not yet")
            return await super().reset(task, seed=seed)

    stage = Stage(world)
    parts = world.parts(stage.engine(calls_then_answer(0.1, 0.2)), lambda: Slow(stage.ledger))
    group = await stage.plan(4).collect(world.task, Services(Episodes(parts, seed=7)), CTX)
    check_whole(group, 4)
    assert [t.error for t in group.trajectories] == [None] * 4


async def test_a_world_that_cannot_be_copied_is_played_again(world: Any) -> None:
    """The same tree; what the branches ran again is counted: 1 call after each first result, 2 after
    each second."""

    class Fixed(Walk):
        fork = None  # type: ignore[assignment]

    groups: list[Group] = []
    for kind in (Walk, Fixed):
        stage = Stage(world)
        engine = stage.engine(calls_then_answer(0.1, 0.2, 0.3))
        parts = world.parts(engine, lambda kind=kind, stage=stage: kind(stage.ledger))
        plan = stage.plan(4, initial=1)
        groups.append(await plan.collect(world.task, Services(Episodes(parts, seed=7)), CTX))
        assert sum(t.n_executed for t in groups[-1].trajectories) == stage.ledger.calls
    copied, replayed = groups
    assert tree(copied) == tree(replayed) == {1: (0, 1), 2: (0, 2), 3: (1, 2)}
    assert [t.n_executed for t in copied.trajectories] == [2, 1, 0, 0]
    assert [t.n_executed for t in replayed.trajectories] == [2, 2, 2, 2]
    assert [t.n_calls for t in replayed.trajectories] == [2] * 4


async def test_a_world_that_stays_broken_is_in_the_record(stage: Stage) -> None:
    stage.ledger.fails = lambda call: True
    group = await stage.group(stage.plan(4), calls_then_answer(0.1, 0.2))
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3]
    assert all("the sandbox is gone" in (t.error or "") for t in group.trajectories)


def erratic(seed: int) -> Policy:
    """Calls, unreadable actions, answers and entropies, all drawn from (seed, row, sampling seed)."""

    def policy(results: int, sampling_seed: int) -> Turn:
        rng = random.Random(f"{seed} {results} {sampling_seed}")
        said = rng.choices([CALL, ANSWER, BROKEN], [5, 3, 1])[0]
        return said, rng.random() * 0.6

    return policy


def essence(group: Group) -> list[tuple[Any, ...]]:
    return [
        (t.uid, t.parent, t.fork_tokens, t.n_executed, t.stop, t.rows[0].token_ids.tolist())
        for t in group.trajectories
    ]


PLANS: dict[str, Callable[[Stage, int, int], RolloutPlan]] = {
    "paper": lambda s, n, z: s.plan(n, copies=z, tau=0.5),
    "eager": lambda s, n, z: s.plan(n, copies=z, tau=0.4, initial=max(1, n // 3)),
    "code": lambda s, n, z: s.plan(n, copies=z, form="code"),
    "fixed": lambda s, n, z: s.plan(n, copies=z, form="fixed"),
    "aepo": lambda s, n, z: Aepo(group_size=n, copies=z, tau=0.4, renderer=s.world.renderer),
}


@pytest.mark.parametrize("name", PLANS)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 999), size=st.integers(1, 9), copies=st.integers(1, 3), bad=st.booleans()
)
def test_budget_law_2_and_calls_hold_whatever_happens(
    world: Any, name: str, seed: int, size: int, copies: int, bad: bool
) -> None:
    """Sum of branches, roots and fresh ones = group size; every executed call is somebody's."""
    stage = Stage(world)
    if bad:
        stage.ledger.fails = lambda call: call % 5 == 3
    plan = PLANS[name](stage, size, copies)
    group = asyncio.run(stage.group(plan, erratic(seed)))
    check_whole(group, size)
    for branch, (parent, shared) in tree(group).items():
        assert bad or parent < branch
        assert shared >= 1
    executed = sum(t.n_executed for t in group.trajectories)
    assert executed <= stage.ledger.calls
    if not bad:
        assert executed == stage.ledger.calls


@pytest.mark.parametrize("name", PLANS)
async def test_the_order_of_arrival_changes_nothing(stage: Stage, name: str) -> None:
    """Tools answer after random waits; six times the same tree."""
    plan = PLANS[name](stage, 9, 2)
    calm = essence(await stage.group(plan, erratic(5)))
    stage.ledger.wait_s = 0.004
    for _ in range(5):
        assert essence(await stage.group(plan, erratic(5))) == calm


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_trees_never_wait_for_their_own_places(stage: Stage, in_flight: int) -> None:
    """Six tasks share the places that a single tree could use up."""
    stage.ledger.wait_s = 0.002
    services = stage.services(stage.engine(erratic(3)), in_flight=in_flight)
    plan = stage.plan(6, tau=0.4, copies=2)
    tasks = [Task(f"t{i}", "Q", "4", seed=i) for i in range(6)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as running:
        groups = [running.create_task(plan.collect(t, services, CTX)) for t in tasks]
    for group in groups:
        assert len(group.result().trajectories) == 6


async def test_a_slow_tool_holds_up_no_other_task(stage: Stage) -> None:
    """The first task's tool never answers until the second task's group is done."""
    done = asyncio.Event()
    walk_step = Walk.step

    class Patient(Walk):
        async def step(self, action: Action) -> StepResult:
            if self.task.id == "slow" and action.tool_calls:
                async with asyncio.timeout(60):
                    await done.wait()
            return await walk_step(self, action)

        async def reset(self, task: Task, *, seed: int) -> Observation:
            return await super().reset(task, seed=seed)

    engine = stage.engine(calls_then_answer(0.1, 0.2))
    parts = stage.world.parts(engine, lambda: Patient(stage.ledger))
    services, plan = Services(Episodes(parts, seed=7)), stage.plan(4)

    async def second() -> Group:
        group = await plan.collect(Task("quick", "Q", "4"), services, CTX)
        done.set()
        return group

    waiting: list[Awaitable[Group]] = []
    async with asyncio.timeout(60), asyncio.TaskGroup() as running:
        slow = running.create_task(plan.collect(Task("slow", "Q", "4"), services, CTX))
        waiting.append(running.create_task(second()))
    assert len(tree(slow.result())) == 2


async def test_every_free_place_is_fresh_when_nobody_calls(stage: Stage) -> None:
    group = await stage.group(stage.plan(5), calls_then_answer(0.3))
    check_whole(group, 5)
    assert (tree(group), stage.ledger.calls) == ({}, 0)
