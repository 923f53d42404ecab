"""What a run must not do silently."""

from __future__ import annotations

import pytest

from agentrl.errors import RunFailed
from agentrl.train.alarms import QUIET, Alarms, watched

FLAT = {"zero_variance_groups": 1.0, "zero_advantage_rows": 1.0, "n_tokens": 9.0}
GOOD = {"zero_variance_groups": 0.2, "zero_advantage_rows": 0.2, "n_tokens": 9.0, "entropy": 2.0}


def names(warnings: list[str]) -> list[str]:
    return [text.partition(":")[0].removeprefix("warning, ") for text in warnings]


def test_no_signal_warns_at_the_third_step_in_a_row_then_ends_the_run() -> None:
    alarms = Alarms(watched(5))
    past: list[dict[str, float]] = [GOOD]
    told = []
    for _ in range(4):
        told.append(names(alarms.check(FLAT, past)))
        past.append(FLAT)
    assert told == [[], [], ["no signal"], []]
    with pytest.raises(RunFailed, match=r"no signal for 5 steps.*group_size"):
        alarms.check(FLAT, past)


def test_a_step_with_signal_starts_the_count_again() -> None:
    alarms = Alarms(watched(3))
    assert alarms.check(FLAT, [FLAT, GOOD, FLAT]) == []


def test_without_a_limit_a_stalled_run_goes_on_and_is_told_again_and_again() -> None:
    alarms = Alarms(watched(None))
    due = [n for n in range(60) if "no signal" in names(alarms.check(FLAT, [FLAT] * n))]
    assert due == [2, 2 + QUIET, 2 + 2 * QUIET]


def test_equal_outcomes_told_apart_by_shaping_are_no_stall() -> None:
    shaped = {**FLAT, "zero_advantage_rows": 0.5}
    assert Alarms(watched(1)).check(shaped, []) == []


@pytest.mark.parametrize(
    ("metrics", "past", "name"),
    [
        ({"n_tokens": 0.0}, [], "empty mask"),
        ({"mask_share": 1.0}, [], "full mask"),
        ({"skipped_steps": 1.0}, [], "not finite"),
        ({"zero_advantage_rows": 0.71}, [{"zero_advantage_rows": 0.9}] * 19, "few advantages"),
        ({"entropy": 0.19}, [{"entropy": 2.0}, {"entropy": 1.0}], "collapse"),
        ({"ess": 0.49}, [], "stale data"),
        ({"truncated": 0.31}, [{"truncated": 0.4}] * 4, "truncation"),
        ({"judge_failures": 0.03}, [], "judge"),
    ],
)
def test_each_alarm_just_beyond_its_threshold(
    metrics: dict[str, float], past: list[dict[str, float]], name: str
) -> None:
    assert names(Alarms(watched(30)).check(metrics, past)) == [name]


@pytest.mark.parametrize(
    "metrics",
    [
        {"mask_share": 0.99},
        {"zero_advantage_rows": 0.7},
        {"ess": 0.5},
        {"truncated": 0.3},
        {"judge_failures": 0.02},
        {"entropy": 0.2},
    ],
)
def test_none_at_its_threshold(metrics: dict[str, float]) -> None:
    assert Alarms(watched(30)).check(metrics, [{**metrics, "entropy": 2.0}] * 40) == []


def test_an_empty_mask_ends_the_run_after_three_steps() -> None:
    empty = {"n_tokens": 0.0}
    with pytest.raises(RunFailed, match="empty mask for 3 steps"):
        Alarms(watched(None)).check(empty, [empty, empty])
