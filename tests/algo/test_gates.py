"""Which groups pass the accuracy band."""

from __future__ import annotations

import pytest

from agentrl.algo.gates import AccuracyBand
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Drop, Keep
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=1, seed=0)
TASK = Task(id="t", question="?")


def group(n_correct: int, n: int, *, n_failed: int = 0) -> Group:
    members = [
        Trajectory(
            uid=str(i),
            task=TASK,
            sibling=i,
            rows=(),
            messages=(),
            stop=StopReason.ERROR,
            error="lost",
        )
        for i in range(n_failed)
    ]
    members += [_scored(n_failed + i, 1.0 if i < n_correct else -1.0) for i in range(n)]
    return Group(TASK, tuple(members))


def _scored(i: int, value: float) -> Trajectory:
    rows = (Transcript(),)
    return Trajectory(str(i), TASK, i, rows, (), StopReason.TERMINATED, rewards={"env": value})


@pytest.mark.parametrize(
    ("gate", "n_correct", "n", "verdict"),
    [
        (AccuracyBand(), 0, 4, Drop("hard")),
        (AccuracyBand(), 1, 4, Keep()),
        (AccuracyBand(), 3, 4, Keep()),
        (AccuracyBand(), 4, 4, Drop("easy")),
        (AccuracyBand(low=0.2, high=0.8, open=False), 1, 10, Drop("hard")),
        (AccuracyBand(low=0.2, high=0.8, open=False), 2, 10, Keep()),
        (AccuracyBand(low=0.2, high=0.8, open=False), 8, 10, Keep()),
        (AccuracyBand(low=0.2, high=0.8, open=False), 9, 10, Drop("easy")),
        (AccuracyBand(low=0.2, high=0.8), 2, 10, Drop("hard")),
    ],
)
def test_band(gate: AccuracyBand, n_correct: int, n: int, verdict: object) -> None:
    assert gate(group(n_correct, n), HistoryStore(), CTX) == verdict


def test_failed_trajectories_do_not_count() -> None:
    gate = AccuracyBand()
    assert gate(group(2, 2, n_failed=2), HistoryStore(), CTX) == Drop("easy")
    assert gate(group(0, 0, n_failed=2), HistoryStore(), CTX) == Drop("failed")


def test_bad_band_is_told() -> None:
    with pytest.raises(UserError, match="accuracy_band"):
        AccuracyBand(low=0.8, high=0.2)
