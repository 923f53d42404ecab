"""OTC rests while accuracy is lost: the switch, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.rewards.base import summed
from agentrl.rewards.otc import NAMESPACE, OTC, accuracy_lost
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


def rewards(of: Group, ctx: Ctx = CTX, **options: Any) -> list[float]:
    shaped = OTC(**options)(of, summed(of), HistoryStore(), ctx)
    return shaped.rewards_G.tolist()


def after(*accuracies: float) -> Ctx:
    return replace(CTX, past=[{"accuracy": value} for value in accuracies])


def test_what_was_lost_is_counted_from_the_best_window() -> None:
    """Means of 8: .5 for the first eight; then one step of .9 and one of .1: .55, .5."""
    assert accuracy_lost(after(*[0.5] * 7).past) == 0
    assert accuracy_lost(after(*[0.5] * 8, 0.9).past) == 0
    assert accuracy_lost(after(*[0.5] * 8, 0.9, 0.1).past) == pytest.approx(0.05)
    assert accuracy_lost([{"loss": 1.0}]) == 0


def test_calls_cost_nothing_while_accuracy_is_lost() -> None:
    """2 of 4 are right, with 1 and 3 calls, n = 1: sin(3 pi / 4) = .7071."""
    of, paid, free = group([1, 1, 0, 0], [1, 3, 0, 2]), [1, 0.7071, 0, 0], [1, 1, 0, 0]
    lost = after(*[0.8] * 8, *[0.6] * 8)  # .2 below the best
    assert rewards(of, ctx=lost) == pytest.approx(paid, abs=1e-4), "the paper's never rests"
    assert rewards(of, ctx=lost, keep=0.25) == pytest.approx(paid, abs=1e-4)
    assert rewards(of, ctx=lost, keep=0.15) == free
    assert rewards(of, ctx=after(*[0.8] * 8), keep=0.15) == pytest.approx(paid, abs=1e-4)
    regained = after(*[0.8] * 8, *[0.6] * 8, *[0.8] * 8)
    assert rewards(of, ctx=regained, keep=0.15) == pytest.approx(paid, abs=1e-4)


def test_the_least_calls_are_remembered_all_the_same() -> None:
    of = group([1, 0, 0, 0], [2, 0, 0, 0])
    shaped = OTC(keep=0.0)(of, summed(of), HistoryStore(), after(*[0.8] * 8, *[0.6] * 8))
    assert [(w.namespace, w.value) for w in shaped.writes] == [(NAMESPACE, 2.0)]


def test_where_code_is_needed_a_lucky_guess_ends_the_papers_form() -> None:
    """One way into the collapse: one right answer without a call makes n = 0 for good, and an answer
    by one call is worth half from then on."""
    assert rewards(group([1, 1, 0, 0], [0, 1, 1, 0])) == pytest.approx([1, 0.5, 0, 0])


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_what_is_kept_is_an_accuracy(value: float) -> None:
    with pytest.raises(UserError, match="an accuracy in 0 to 1"):
        OTC(keep=value)


GUESSED, COMPUTED = 0.6, 1.0
"""How often an answer is right without a call, and with one."""


def bandit(keep: float | None, steps: int = 200) -> list[tuple[float, float]]:
    """(accuracy, calls) by step of a policy that only decides whether to call, by GRPO.

    Sixteen tasks of eight samples a step; one logit, its exact score function, step size 0.5. A
    guess is right often enough to set n = 0, after which an answer by one call is worth half:
    OTC alone prefers to guess (.6 against .5), though calling is always right.
    """
    rng, logit, history = np.random.default_rng(0), 0.0, HistoryStore()
    told: list[tuple[float, float]] = []
    for _ in range(steps):
        called_share = 1 / (1 + np.exp(-logit))
        ctx = replace(CTX, past=[{"accuracy": accuracy} for accuracy, _ in told])
        gradient, right, calls = 0.0, [], []
        for _ in range(16):
            called = rng.random(8) < called_share
            solved = rng.random(8) < np.where(called, COMPUTED, GUESSED)
            of = group(solved.astype(float).tolist(), called.astype(int).tolist())
            shaped = OTC(keep=keep)(of, summed(of), history, ctx)
            history.commit(shaped.writes)
            reward = np.asarray(shaped.rewards_G)
            advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
            gradient += float((advantage * (called - called_share)).mean()) / 16
            right += solved.tolist()
            calls += called.tolist()
        logit += 0.5 * gradient * 4
        told.append((float(np.mean(right)), float(np.mean(calls))))
    return told


def test_the_collapse_and_the_guard() -> None:
    """Calls vanish and accuracy falls to that of guessing; with `keep` it stays near its best."""
    accuracy, calls = np.array(bandit(None)[-50:]).mean(0)
    assert accuracy == pytest.approx(GUESSED, abs=0.05)
    assert calls < 0.05
    accuracy, calls = np.array(bandit(0.05)[-50:]).mean(0)
    assert accuracy > 0.9
    assert calls > 0.75
