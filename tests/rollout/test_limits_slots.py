"""Limiters: order, cancellation, changing capacity, statistics, and the warning of a stall."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.context import LimiterStatistics
from agentrl.engine.base import EngineStatistics
from agentrl.env import StepInfo, StepResult
from agentrl.points import Ctx, Services
from agentrl.rollout.collector import PATIENT, patient_collector
from agentrl.rollout.engine_slots import LOOK_S, EngineSlots
from agentrl.rollout.flow_metrics import FLOW_METRICS, flow_metrics
from agentrl.rollout.loop import Episodes, RolloutStatistics
from agentrl.rollout.plans.sample import Sample
from agentrl.rollout.slots import Slots
from agentrl.testing.virtual_time import run_virtually
from agentrl.trajectory import StopReason

CTX = Ctx(step=0, total_steps=1, seed=0)


async def test_first_come_first_served():
    slots, order = Slots(1), list[int]()

    async def hold(i: int) -> None:
        async with slots.slot():
            order.append(i)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for i in range(20):
            group.create_task(hold(i))
    assert order == list(range(20))
    assert (slots.borrowed, slots.waiting, slots.statistics().admitted) == (0, 0, 20)


def test_the_statistics_of_a_queue_by_hand():
    """Two places, five holders of 1 s each: two wait 0, two wait 1, one waits 2."""

    async def work() -> Slots:
        slots = Slots(2)

        async def hold() -> None:
            async with slots.slot():
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(hold())
        return slots

    found = run_virtually(work()).statistics()
    assert (found.total_wait_s, found.longest_wait_s, found.admitted) == (4.0, 2.0, 5)


async def test_a_smaller_capacity_takes_nothing_away_and_a_larger_one_admits():
    slots = Slots(3)
    held = [slots.slot() for _ in range(3)]
    for slot in held:
        await slot.__aenter__()
    slots.resize(1)
    waiting = [asyncio.ensure_future(slots.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    for slot in held[:2]:
        await slot.__aexit__(None, None, None)
    await asyncio.sleep(0)
    assert (slots.borrowed, slots.waiting) == (1, 2)
    slots.resize(3)
    await asyncio.gather(*waiting)
    assert (slots.borrowed, slots.waiting) == (3, 0)


@given(
    st.lists(st.sampled_from(["take", "give", "cancel", "grow", "shrink"]), max_size=60),
    st.integers(1, 4),
)
def test_places_are_never_lost_or_made_up(steps: list[str], capacity: int):
    """Any interleaving of arrivals, departures, cancellations and changes of capacity."""

    async def work() -> None:
        slots = Slots(capacity)
        size, tasks = capacity, list[asyncio.Task[float]]()
        for step in steps:
            holders = [t for t in tasks if t.done() and not t.cancelled()]
            waiters = [t for t in tasks if not t.done()]
            if step == "take":
                tasks.append(asyncio.ensure_future(slots.acquire()))
            elif step == "give" and holders:
                tasks.remove(holders[0])
                slots.release()
            elif step == "cancel" and waiters:
                waiters[-1].cancel()  # at times just as it is handed a place
                if holders:
                    tasks.remove(holders[0])
                    slots.release()
            elif step in ("grow", "shrink"):
                size = max(1, size + (1 if step == "grow" else -1))
                slots.resize(size)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        held = sum(t.done() and not t.cancelled() for t in tasks)
        waiting = sum(not t.done() for t in tasks)
        assert (slots.borrowed, slots.waiting) == (held, waiting)
        assert not waiting or held >= size, "somebody waits although there is a place"
        for task in tasks:
            task.cancel()

    asyncio.run(work())


def test_a_stall_names_who_holds_the_places(world: Any, sleep: Any, caplog: Any):
    """One place, an environment that does not answer; nothing moves for the given time."""
    answer = StepResult((), 0.0, True, False, StepInfo())
    made = world.bare(step=sleep(700, answer))
    parts = world.parts(world.turns("a"), made, step_s=1e6, episode_s=None)

    async def work() -> Any:
        runner = Episodes(parts, seed=0, in_flight=1, retries=0)
        return await Sample(group_size=2).collect(world.task, Services(runner), CTX)

    with caplog.at_level(logging.WARNING):
        run_virtually(work())
    first = caplog.messages[0]
    assert first.startswith("1 wait for a place for an episode and none of 1 came free for 300 s")
    assert "held by: 0/t/0 in step" in first
    assert len(caplog.messages) == 2, "twice while the first holds it, and never without a queue"


class Fake:
    """An engine's statistics, as a test sets them."""

    def __init__(self) -> None:
        self.running = self.waiting = self.preemptions = 0
        self.kv_used: float | None = 0.5

    def read(self) -> EngineStatistics:
        return EngineStatistics(
            self.running, self.waiting, 0, 0, 0.0, self.kv_used, self.preemptions
        )


def looked(change: dict[str, Any], *, capacity: int = 64, queue: int = 0) -> int:
    """The capacity after one look at an engine of these statistics."""

    async def work() -> int:
        fake = Fake()
        slots = EngineSlots(64, fake.read)
        slots._slots.resize(capacity)
        for _ in range(capacity if queue else 1):
            await slots.acquire()
        waiting = [asyncio.ensure_future(slots.acquire()) for _ in range(queue)]
        await asyncio.sleep(2 * LOOK_S)
        for name, value in change.items():
            setattr(fake, name, value)
        slots.release()
        found = slots.statistics().capacity
        for task in waiting:
            task.cancel()
        return found

    return run_virtually(work())


@pytest.mark.parametrize(
    ("change", "capacity", "queue", "expected"),
    [
        ({"kv_used": None, "waiting": 9}, 64, 0, 64),  # nothing is known
        ({"kv_used": 0.97, "running": 40, "waiting": 0}, 64, 0, 64),  # full, and all of it runs
        ({"kv_used": 0.97, "running": 40, "waiting": 20}, 64, 0, 42),  # what runs, and 64 / 32
        ({"kv_used": 0.97, "running": 40, "preemptions": 3}, 64, 0, 30),  # 0.75 x 40
        ({"kv_used": 0.97, "running": 0, "preemptions": 3}, 64, 0, 1),  # never below one
        ({"kv_used": 0.5, "running": 10}, 10, 5, 12),  # room, and somebody waits
        ({"kv_used": 0.5, "running": 10}, 10, 0, 10),  # room, and nobody does
        ({"kv_used": 0.9, "running": 10}, 10, 5, 10),  # neither full nor roomy
        ({"kv_used": 0.5, "running": 63}, 63, 5, 64),  # never above the most
    ],
)
def test_one_look_at_the_engine_by_hand(
    change: dict[str, Any], capacity: int, queue: int, expected: int
):
    assert looked(change, capacity=capacity, queue=queue) == expected


async def test_the_lowest_rank_goes_first_and_equals_in_order():
    slots, order = Slots(1), list[tuple[int, int]]()

    async def hold(rank: int, i: int) -> None:
        async with slots.slot(rank):
            order.append((rank, i))

    await slots.acquire()
    async with asyncio.TaskGroup() as group:
        for i, rank in enumerate((3, 1, 2, 1, 3)):
            group.create_task(hold(rank, i))
        await asyncio.sleep(0)
        slots.release()
    assert order == [(1, 1), (1, 3), (2, 2), (3, 0), (3, 4)]


async def test_episodes_under_way_go_before_those_that_begin(world: Any):
    """Four episodes of two turns (rows of 4 and 11 tokens), one place in the engine.

    A place given back goes to who waits; the one that gave it is back for its second turn before the
    third episode begins.
    """
    seen: list[int] = []

    def script(row: Any, sampling: Any, i: int) -> str:
        seen.append(len(row))
        return "a"

    parts = world.parts(world.script(script, tokens_per_s=200), world.bare(), max_turns=2)
    runner = Episodes(parts, seed=0, in_flight=4, adaptive=False)
    runner.parts.engine_slots.resize(1)
    await Sample(group_size=4).collect(world.task, Services(runner), CTX)
    assert seen == [4, 4, 11, 11] * 2


def test_the_collector_is_patient_while_episodes_live_and_as_before_afterwards():
    before = gc.get_threshold()
    with patient_collector():
        with patient_collector():
            assert gc.get_threshold() == PATIENT
        assert gc.get_threshold() == PATIENT
    assert gc.get_threshold() == before
    gc.set_threshold(90_000, 10, 10)
    try:
        with patient_collector():
            assert gc.get_threshold() == (90_000, 10, 10)
    finally:
        gc.set_threshold(*before)


async def test_finished_trajectories_are_told_at_once_and_statistics_count(world: Any):
    """One of three fails for good; each is told as it ends."""
    told: list[str] = []

    async def step(action: Any) -> Any:
        raise OSError("gone")

    parts = world.parts(world.turns("a"), world.bare(step=step))
    runner = Episodes(parts, seed=0, retries=1, finished=lambda t: told.append(t.uid))
    failed = await runner.run(world.task, 0, CTX)
    good = Episodes(world.parts(world.turns("a")), seed=0, finished=lambda t: told.append(t.uid))
    done = await good.run(world.task, 1, CTX)
    assert told == ["0/t/0", "0/t/1"]
    assert (failed.stop, done.stop) == (StopReason.ERROR, StopReason.TERMINATED)
    found = runner.statistics()
    assert (found.finished, found.failed, found.retried) == (1, 1, 1)


def test_flow_metrics_by_hand():
    """Ten seconds: the engine computed for 6; 4 calls waited 2 s in all, nobody else."""
    idle, tools = LimiterStatistics(4, 0, 0, 0.0), LimiterStatistics(4, 0, 0, 1.0, admitted=6)
    first = RolloutStatistics(idle, idle, tools, finished=1, failed=0, retried=2)
    later = LimiterStatistics(4, 0, 0, 3.0, admitted=10)
    last = RolloutStatistics(idle, LimiterStatistics(3, 0, 0, 0.0), later, 9, 1, 5)
    metrics = flow_metrics(
        (first, EngineStatistics(0, 0, 0, 0, 1.0, preemptions=1)),
        (last, EngineStatistics(0, 0, 0, 0, 7.0, preemptions=3)),
        10.0,
    )
    assert metrics == {
        "engine_idle": pytest.approx(0.4), "engine_places": 3.0, "set_back": 2.0, "retried": 3.0,
        "wait_episode_s": 0.0, "wait_engine_s": 0.0, "wait_tool_s": 0.5,
    }  # fmt: skip
    assert set(metrics) - FLOW_METRICS == {"retried"}
