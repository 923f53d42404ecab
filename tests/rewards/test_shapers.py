"""Summed components, OTC's table and history, the overlong ramp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx
from agentrl.rewards.base import rewarded, summed
from agentrl.rewards.otc import NAMESPACE, OTC, tool_reward
from agentrl.rewards.overlong import Overlong
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript, floats_array
from agentrl.types import Task, ToolFault

CTX = Ctx(step=0, total_steps=1, seed=0)
TASK = Task(id="t", question="?")


def call(error: ToolFault | None = None) -> CallRecord:
    return CallRecord(0, "python", "", "", error, False, 0.0, 0.0)


def member(
    sibling: int, rewards: dict[str, float], n_calls: int = 0, n_sampled: int = 1, **options: object
) -> Trajectory:
    row = Transcript().append(
        Segment(Origin.PROMPT, [1]),  # type: ignore[arg-type]
        Segment(Origin.MODEL, [2] * n_sampled, [-1.0] * n_sampled, version=0),  # type: ignore[arg-type]
    )
    fields = {"stop": StopReason.TERMINATED} | options
    calls = tuple(call() for _ in range(n_calls))
    return Trajectory(
        f"0/t/{sibling}",
        TASK,
        sibling,
        (row,),
        (),
        rewards=rewards,
        calls=calls,
        **fields,  # type: ignore[arg-type]
    )


def group_of(ok: Sequence[float], n_calls: Sequence[int]) -> Group:
    pairs = zip(ok, n_calls, strict=True)
    return Group(TASK, tuple(member(i, {"env": r}, m) for i, (r, m) in enumerate(pairs)))


TABLE = {
    None: [1, 0.5, 0.3090, 0.2225, 0.1736, 0.1205],
    0: [1, 0.5, 0.3090, 0.2225, 0.1736, 0.1205],
    1: [0, 1, 0.8660, 0.7071, 0.5878, 0.4339],
    2: [0, 0.8660, 1, 0.9511, 0.8660, 0.7071],
    3: [0, 0.7071, 0.9511, 1, 0.9749, 0.8660],
}


@pytest.mark.parametrize("least", TABLE)
def test_otc_table(least: int | None) -> None:
    """Rows n, columns m = 0 1 2 3 4 6, at c = 1; None is the PPO form."""
    form = "ppo" if least is None else "grpo"
    got = [tool_reward(m, least, form=form) for m in (0, 1, 2, 3, 4, 6)]
    assert got == pytest.approx(TABLE[least], abs=1e-4)


def test_otc_group_and_its_history() -> None:
    """ok = 1 1 0 1, m = 1 3 2 2: n = 1, and each winner offers its count once."""
    group = group_of([1, 1, 0, 1], [1, 3, 2, 2])
    history = HistoryStore()
    shaped = OTC()(group, summed(group), history, CTX)
    assert shaped.rewards_G.tolist() == pytest.approx([1, 0.7071, 0, 0.8660], abs=1e-4)
    assert sorted(w.value for w in shaped.writes) == [1, 2, 3]
    history.commit(shaped.writes)
    assert history.get(NAMESPACE, "t") == 1


def test_otc_reads_history_and_its_own_group_first() -> None:
    """History 2, then a correct answer without a call: n = 0 at once, never reward 0 for it."""
    history = HistoryStore()
    history.commit([Write(NAMESPACE, "t", 2.0, "min", "before")])
    later = group_of([1, 1], [4, 3])
    shaped = OTC()(later, summed(later), history, CTX)
    assert shaped.rewards_G.tolist() == pytest.approx([0.8660, 0.9511], abs=1e-4)
    frugal = group_of([1, 1], [0, 3])
    shaped = OTC()(frugal, summed(frugal), history, CTX)
    assert shaped.rewards_G.tolist() == pytest.approx([1, 0.2225], abs=1e-4)
    assert history.get(NAMESPACE, "t") == 2


def test_otc_scales_its_component_only() -> None:
    """format 0.1 stays; a penalty for being wrong is not made smaller by wasted calls."""
    group = Group(
        TASK,
        (
            member(0, {"env": 1.0, "format": 0.1}, 2),
            member(1, {"env": -1.0, "format": 0.1}, 5),
            member(2, {"env": 0.0}, 0),
        ),
    )
    shaped = OTC(form="ppo", alpha=0.5)(group, summed(group), HistoryStore(), CTX)
    assert shaped.rewards_G.tolist() == pytest.approx([0.5 * 0.3090 + 0.1, -0.9, 0.0], abs=1e-4)


def test_otc_counts_executed_calls() -> None:
    faults: list[ToolFault | None] = [None, "parse", "unknown_tool", "execution", "timeout"]
    trajectory = member(0, {"env": 1.0})
    record = tuple(call(fault) for fault in faults)
    assert replace(trajectory, calls=record).n_calls == 3


def test_otc_without_any_winner_teaches_nothing() -> None:
    group = group_of([0, 0], [1, 2])
    shaped = OTC()(group, summed(group), HistoryStore(), CTX)
    assert shaped.rewards_G.tolist() == [0, 0]
    assert shaped.writes == ()


@pytest.mark.parametrize(
    ("overlong", "n_tokens", "expected"),
    [
        (Overlong(100, 20), 80, 0),
        (Overlong(100, 20), 90, -0.5),
        (Overlong(100, 20), 100, -1),
        (Overlong(100, 20), 110, -1.5),
        (Overlong(20480, 4096), 16384, 0),
        (Overlong(20480, 4096), 18432, -0.5),
        (Overlong(20480, 4096, factor=0.5), 20480, -0.5),
    ],
)
def test_overlong(overlong: Overlong, n_tokens: int, expected: float) -> None:
    assert overlong.penalty(n_tokens) == pytest.approx(expected)


def test_overlong_counts_policy_tokens_and_keeps_the_rest() -> None:
    group = Group(
        TASK, (member(0, {"env": 1.0}, n_sampled=9), member(1, {"env": 1.0}, n_sampled=4))
    )
    shaped = Overlong(10, 4)(group, summed(group), HistoryStore(), CTX)
    assert shaped.rewards_G.tolist() == pytest.approx([0.25, 1.0])


def test_summed_and_rewarded() -> None:
    failed = member(2, {"env": 1.0}, stop=StopReason.ERROR, error="lost")
    group = Group(TASK, (member(0, {"env": 1.0, "format": 0.25}), member(1, {}), failed))
    shaped = summed(group)
    assert shaped.rewards_G.tolist() == [1.25, 0, 0]
    assert [t.reward for t in rewarded(group, shaped).trajectories] == [1.25, 0, None]
    with pytest.raises(ValueError, match="shorter"):
        rewarded(group, shaped._replace(rewards_G=floats_array([1.0])))


@pytest.mark.parametrize(
    "make",
    [lambda: OTC(c=0), lambda: OTC(alpha=-1), lambda: Overlong(10, 20), lambda: Overlong(10, 0)],
)
def test_bad_settings_are_told(make: object) -> None:
    with pytest.raises(UserError):
        make()  # type: ignore[operator]
