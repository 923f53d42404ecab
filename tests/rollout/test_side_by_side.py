"""Episodes run side by side: tools overlap with generation and with each other, within bounds."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from agentrl.errors import SandboxError
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Slots
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.sample import Sample
from agentrl.trajectory import StopReason

CALL, ANSWER = "<code>1</code>", "<answer>4</answer>"
CTX = Ctx(step=0, total_steps=1, seed=0)


def called(renderer: Any, row: Any) -> int:
    """Calls that a row holds already."""
    return renderer.tokenizer.decode(row.tolist()).count("</interpreter>")


def three_calls(world: Any, **options: Any) -> Any:
    """Three calls, then the answer, decided from the row: any number of episodes may run at once."""
    return world.script(
        lambda row, sampling, i: CALL if called(world.renderer, row) < 3 else ANSWER, **options
    )


async def collect(world: Any, parts: Any, n: int, **options: Any) -> Any:
    runner = Episodes(parts, seed=0, **options)
    return await Sample(group_size=n).collect(world.task, Services(episodes=runner), CTX)


async def test_tools_of_32_episodes_overlap(world: Any, sleep: Any):
    """96 calls of 0.1 s are 9.6 s one after another and 0.3 s at best; allowed is a quarter."""
    parts = world.parts(three_calls(world), world.quiz(sleep(0.1, "1")))
    started = monotonic()
    group = await collect(world, parts, 32)
    took = monotonic() - started
    assert [t.n_calls for t in group.trajectories] == [3] * 32
    serial = sum(t.timings.tool_s for t in group.trajectories)
    assert serial >= 9.6
    assert took < serial / 4
    assert world.log.most_running > 16


async def test_generation_and_tools_overlap(world: Any, sleep: Any):
    """A slow engine (4 turns of some 0.05 s) and slow tools: less than half of their sum."""
    parts = world.parts(three_calls(world, tokens_per_s=60), world.quiz(sleep(0.05, "1")))
    started = monotonic()
    group = await collect(world, parts, 16)
    took = monotonic() - started
    spent = sum(t.timings.tool_s + t.timings.generate_s for t in group.trajectories)
    assert took < spent / 2


async def test_a_slow_tool_delays_one_trajectory(world: Any):
    """The first call of all takes 1 s, the others nothing."""
    calls = 0

    async def run(code: str) -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1.0 if calls == 1 else 0.0)
        return "1"

    group = await collect(world, world.parts(three_calls(world), world.quiz(run)), 16)
    times = sorted(t.timings.total_s for t in group.trajectories)
    assert times[-1] >= 1.0
    assert times[-2] < 0.8


async def test_siblings_are_in_order_whatever_arrives_first(world: Any):
    """Later siblings finish sooner."""
    delays = iter(0.1 * n for n in range(8, 0, -1))

    async def run(code: str) -> str:
        await asyncio.sleep(next(delays))
        return "1"

    engine = world.script(lambda row, s, i: CALL if not called(world.renderer, row) else ANSWER)
    group = await collect(world, world.parts(engine, world.quiz(run)), 8)
    assert [t.sibling for t in group.trajectories] == list(range(8))
    times = [t.timings.total_s for t in group.trajectories]
    assert times == sorted(times, reverse=True)


async def test_episodes_in_flight_are_bounded(world: Any, sleep: Any):
    parts = world.parts(three_calls(world), world.quiz(sleep(0.01, "1")))
    await collect(world, parts, 12, in_flight=3)
    assert world.log.most_running == 3


async def test_tool_slots_bound_the_calls_and_queueing_is_told(world: Any, sleep: Any):
    slots = Slots(2)
    ctx_env = world.quiz(sleep(0.02, "1"))
    group = await collect(world, world.parts(three_calls(world), ctx_env, tool_slots=slots), 8)
    assert world.log.most_running == 2
    queued = sum(t.timings.queue_s for t in group.trajectories)
    statistics = slots.statistics()
    assert (statistics.capacity, statistics.borrowed, statistics.waiting) == (2, 0, 0)
    assert statistics.total_wait_s == pytest.approx(queued, abs=0.05)
    assert queued > 0.02 * 8


async def test_slots_count_holders_and_waiters():
    slots = Slots(1)
    async with slots.slot() as waited_s:
        assert waited_s < 0.05
        waiter = asyncio.ensure_future(slots.slot().__aenter__())
        await asyncio.sleep(0.03)
        assert (slots.statistics().borrowed, slots.statistics().waiting) == (1, 1)
        waiter.cancel()
        await asyncio.wait([waiter])
    assert (slots.statistics().borrowed, slots.statistics().waiting) == (0, 0)
    async with slots.slot():
        assert slots.statistics().borrowed == 1


async def test_the_world_s_faults_are_retried_from_the_start(world: Any):
    """Two lost boxes, then all is well: one trajectory, sampled with the seeds of the first try."""
    faults = iter([SandboxError("lost"), SandboxError("lost again")])

    async def run(code: str) -> str:
        for fault in faults:
            raise fault
        return "1"

    engine = world.script(lambda row, s, i: CALL if not called(world.renderer, row) else ANSWER)
    runner = Episodes(world.parts(engine, world.quiz(run)), seed=0, retries=2)
    done = await runner.run(world.task, 0, CTX)
    assert (done.stop, done.rewards, done.uid) == (StopReason.TERMINATED, {"env": 1.0}, "0/t/0")
    assert len({s.seed for s in engine.samplings}) == 2
    assert (world.log.opened, world.log.closed) == (3, 3)
    assert done.n_calls == 1


async def test_after_the_retries_the_failure_is_the_result(world: Any, fail: Any):
    make = world.quiz(fail(SandboxError("lost")))
    runner = Episodes(world.parts(three_calls(world), make), seed=0, retries=1)
    done = await runner.run(world.task, 0, CTX)
    assert (done.error, world.log.opened) == ("SandboxError: lost", 2)


async def test_one_lost_trajectory_leaves_its_siblings_alone(world: Any):
    calls = 0

    async def run(code: str) -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise SandboxError("lost")
        return "1"

    parts = world.parts(three_calls(world), world.quiz(run))
    group = await collect(world, parts, 8, retries=0)
    errors = [t.error for t in group.trajectories if t.error is not None]
    assert errors == ["SandboxError: lost"]
    assert sum(t.rewards.get("env", 0.0) for t in group.scored) == 7.0


async def test_a_bug_ends_the_group_and_every_episode_is_closed(world: Any, sleep: Any):
    """Siblings wait in a slow tool when one of them meets our own fault."""

    def script(row: Any, sampling: Any, i: int) -> str:
        if i == 5:
            raise KeyError("a bug of ours")
        return CALL

    parts = world.parts(world.script(script), world.quiz(sleep(30)))
    with pytest.raises(ExceptionGroup) as raised:
        await collect(world, parts, 6)
    assert [type(e) for e in raised.value.exceptions] == [KeyError]
    assert world.log.opened == world.log.closed == 6
