"""A report's numbers, worked out from groups made by hand."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agentrl.errors import RunFailed
from agentrl.evaluate.report import report
from agentrl.evaluate.run import play
from agentrl.evaluate.statistics import mean_of_tasks, wilson
from agentrl.points import Ctx, Services
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task


def task(name: str, family: str | None = None) -> Task:
    return Task(name, "?", "1", {} if family is None else {"family": family})


def call(error: Any = None) -> CallRecord:
    return CallRecord(0, "python", "{}", "", error, False, 0.0, 0.0)


def played(
    of: Task, sibling: int, reward: float | None, *, calls: tuple[Any, ...] = (),
    stop: StopReason = StopReason.TERMINATED, tokens: int = 2, excluded: str | None = None,
) -> Trajectory:  # fmt: skip
    """A reward of None: the world failed it."""
    row = Transcript().append(
        Segment(Origin.PROMPT, [1]),
        Segment(Origin.MODEL, [2] * tokens, [-1.0] * tokens, version=0),
    )
    failed = reward is None
    return Trajectory(
        f"0/{of.id}/{sibling}", of, sibling, (row,), (),
        StopReason.ERROR if failed else stop,
        rewards={} if failed else {"env": reward},
        calls=tuple(map(call, calls)),
        error="box lost" if failed else None,
        excluded=excluded,
    )  # fmt: skip


def singles(*rewards: float | None) -> list[Group]:
    made = []
    for i, reward in enumerate(rewards):
        of = task(f"t{i}")
        made.append(Group(of, (played(of, 0, reward),)))
    return made


def test_one_sample_a_task_is_wilson_s():
    """3 of 4 scored; the fifth was failed by the world and does not count as wrong."""
    found = report(singles(1.0, 1.0, 0.0, 1.0, None))
    assert found.accuracy == wilson(3, 4)
    assert (found.tasks, found.trajectories) == (5, 5)
    assert found.errors == pytest.approx(0.2)
    assert found.pass_at == {1: 0.75}


def test_siblings_of_a_task_are_not_independent():
    """Task a: 1 of 2; task b: 2 of 2; the interval is over the two shares."""
    a, b = task("a"), task("b")
    groups = [
        Group(a, (played(a, 0, 1.0), played(a, 1, 0.0))),
        Group(b, (played(b, 0, 1.0), played(b, 1, 1.0))),
    ]
    found = report(groups)
    assert found.accuracy == mean_of_tasks([0.5, 1.0])
    assert found.pass_at == {1: 0.75, 2: 1.0}


def test_pass_at_k_uses_tasks_with_enough_samples():
    """a: 1 of 4 correct; b: 0 of 2 scored, two lost. k = 4 rests on a alone."""
    a, b = task("a"), task("b")
    groups = [
        Group(a, tuple(played(a, i, float(i == 0)) for i in range(4))),
        Group(b, (played(b, 0, 0.0), played(b, 1, 0.0), played(b, 2, None), played(b, 3, None))),
    ]
    found = report(groups)
    assert found.pass_at == pytest.approx({1: 0.125, 2: 0.25, 4: 1.0})
    assert found.errors == 0.25


def test_calls_and_productivity_by_hand():
    """Calls executed: 2, 0, 1 (the unreadable and the unknown one do not count); 2 correct.

    Productivity 2 / 3; faults 3 of the 5 lines.
    """
    a, b, c = task("a"), task("b"), task("c")
    groups = [
        Group(a, (played(a, 0, 1.0, calls=(None, "timeout")),)),
        Group(b, (played(b, 0, 1.0, tokens=5),)),
        Group(c, (played(c, 0, 0.0, calls=("parse", "unknown_tool", None), tokens=8),)),
    ]
    found = report(groups)
    assert found.calls == 1.0
    assert found.productivity == pytest.approx(2 / 3)
    assert found.call_errors == pytest.approx(3 / 5)
    assert found.length == 5.0


def test_no_call_has_no_productivity():
    assert report(singles(1.0)).productivity is None
    assert report(singles(1.0)).call_errors == 0.0


def test_truncated_and_excluded_count_as_what_they_scored():
    a, b = task("a"), task("b")
    groups = [
        Group(a, (played(a, 0, 0.0, stop=StopReason.MAX_TURNS),)),
        Group(b, (played(b, 0, 0.0, excluded="unverified"),)),
    ]
    found = report(groups)
    assert (found.truncated, found.excluded, found.accuracy.value) == (0.5, 0.5, 0.0)


def test_a_partial_score_is_not_correct():
    assert report(singles(0.99)).accuracy.value == 0.0


def test_families():
    tasks = [task("a", "mul"), task("b", "mul"), task("c", "add"), task("d")]
    groups = [
        Group(t, (played(t, 0, r),)) for t, r in zip(tasks, (1.0, 0.0, 1.0, 1.0), strict=True)
    ]
    found = report(groups)
    assert found.families == {"add": wilson(1, 1), "mul": wilson(1, 2)}
    assert list(found.families) == ["add", "mul"]


def test_nothing_to_score():
    with pytest.raises(RunFailed, match="the first failed with: box lost"):
        report(singles(None, None))
    with pytest.raises(RunFailed, match="there was no task"):
        report([])


def test_as_json():
    stored = json.loads(json.dumps(report(singles(1.0, 0.0)).to_json()))
    assert (stored["accuracy"], stored["pass_at"]) == (0.5, {"1": 0.5})
    assert stored["accuracy_low"] == wilson(1, 2).low


async def test_play_keeps_the_order_of_tasks_and_tells_arrivals():
    """Later tasks finish sooner."""

    class Plan:
        async def collect(self, of: Task, services: Services, ctx: Ctx) -> Group:
            await asyncio.sleep(0.02 * (4 - int(of.id)))
            return Group(of, (played(of, 0, 1.0),), ctx.step)

    tasks = [task(str(i)) for i in range(4)]
    heard: list[str] = []
    groups = await play(
        tasks, Plan(), Services(episodes=None), Ctx(step=0, total_steps=1, seed=0),  # type: ignore[arg-type]
        lambda group: heard.append(group.task.id),
    )  # fmt: skip
    assert [g.task.id for g in groups] == ["0", "1", "2", "3"]
    assert heard == ["3", "2", "1", "0"]
