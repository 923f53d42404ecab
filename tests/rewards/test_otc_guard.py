"""OTC held back where the task is not solved yet: the switch by accuracy and the floor, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.rewards.base import summed
from agentrl.rewards.otc import NAMESPACE, OTC
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=1, seed=0)
TASK = Task("t", "?", "4")
CALL = CallRecord(0, "python", "", "", None, False, 0.0, 0.0)


def group(ok: Sequence[float], n_calls: Sequence[int]) -> Group:
    row = Transcript().append(
        Segment(Origin.PROMPT, [1]), Segment(Origin.MODEL, [2], [-1.0], version=0)
    )
    return Group(
        TASK,
        tuple(
            Trajectory(f"0/t/{i}", TASK, i, (row,), (), StopReason.TERMINATED,
                       rewards={"env": r}, calls=(CALL,) * m)
            for i, (r, m) in enumerate(zip(ok, n_calls, strict=True))
        ),
    )  # fmt: skip


def rewards(of: Group, history: HistoryStore | None = None, **options: Any) -> list[float]:
    shaped = OTC(**options)(of, summed(of), history or HistoryStore(), CTX)
    return shaped.rewards_G.tolist()


@pytest.mark.parametrize(
    ("solved_from", "wanted"),
    [(0.0, [1, 0.7071, 0, 0]), (0.5, [1, 0.7071, 0, 0]), (0.51, [1, 1, 0, 0])],
)
def test_calls_cost_nothing_until_enough_are_right(solved_from: float, wanted: list[float]) -> None:
    """2 of 4 are right, with 1 and 3 calls, n = 1."""
    found = rewards(group([1, 1, 0, 0], [1, 3, 0, 2]), solved_from=solved_from)
    assert found == pytest.approx(wanted, abs=1e-4)


def test_the_least_calls_are_remembered_all_the_same() -> None:
    of = group([1, 0, 0, 0], [2, 0, 0, 0])
    shaped = OTC(solved_from=1.0)(of, summed(of), HistoryStore(), CTX)
    assert [(w.namespace, w.value) for w in shaped.writes] == [(NAMESPACE, 2.0)]


def test_the_floor_keeps_a_right_answer_from_nothing() -> None:
    """PPO form: 1, .5, .2225 for 0, 1, 3 calls; a wrong one earns nothing whatever the floor."""
    of = group([1, 1, 1, 0], [0, 1, 3, 0])
    assert rewards(of, form="ppo") == pytest.approx([1, 0.5, 0.2225, 0], abs=1e-4)
    assert rewards(of, form="ppo", floor=0.4) == pytest.approx([1, 0.5, 0.4, 0], abs=1e-4)


def test_where_code_is_needed_a_lucky_guess_ends_the_papers_form() -> None:
    """The way into the collapse: one right answer without a call makes n = 0 for good, and an answer
    by one call is worth half from then on."""
    lucky = group([1, 1, 0, 0], [0, 1, 1, 0])
    assert rewards(lucky) == pytest.approx([1, 0.5, 0, 0])
    assert rewards(lucky, solved_from=0.75) == [1, 1, 0, 0]
    assert rewards(lucky, floor=0.8) == pytest.approx([1, 0.8, 0, 0])


@pytest.mark.parametrize("option", ["solved_from", "floor"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_are_shares(option: str, value: float) -> None:
    with pytest.raises(UserError, match="lie in 0 to 1"):
        OTC(**{option: value})  # type: ignore[arg-type]
