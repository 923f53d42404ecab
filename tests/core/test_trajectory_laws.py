"""Finished records: several rows, the ledger, and what counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

TASK = Task("t", "What is 2 + 3?", "5")


def row(prompt: list[int], sampled: list[int]) -> Transcript:
    return Transcript().append(
        Segment(Origin.PROMPT, prompt),
        Segment(Origin.MODEL, sampled, [-1.0] * len(sampled), version=0),
    )


def trajectory(**changes: object) -> Trajectory:
    made = Trajectory("0/t/0", TASK, 0, (row([1, 2], [3, 4]),), (), StopReason.TERMINATED)
    return replace(made, **changes)


def call(error: str | None) -> CallRecord:
    return CallRecord(0, "python", "{}", "5", error, False, 0.1, 0.0)  # type: ignore[arg-type]


def test_a_trajectory_of_two_rows_counts_both():
    """Delethink: the second context starts from another prompt; both are trained."""
    both = trajectory(rows=(row([1, 2], [3, 4]), row([1, 9], [5])))
    assert both.n_tokens == 7
    assert both.n_sampled == 3
    assert [r.mask.tolist() for r in both.rows] == [
        [False, False, True, True],
        [False, False, True],
    ]


def test_calls_count_only_what_was_executed():
    faults = (None, "parse", "unknown_tool", "arguments", "timeout", "execution")
    assert trajectory(calls=tuple(call(fault) for fault in faults)).n_calls == 3


def test_unscored_is_not_zero():
    assert trajectory().reward is None


def test_a_component_is_set_once():
    scored = trajectory().scored(env=1.0)
    assert scored.rewards == {"env": 1.0}
    with pytest.raises(ValueError, match="'env' of 0/t/0 is already set"):
        scored.scored(env=0.0)


@pytest.mark.parametrize(
    ("changes", "trainable"),
    [
        ({}, True),
        ({"excluded": "void"}, False),
        ({"stop": StopReason.ERROR, "error": "lost"}, False),
        ({"rows": (Transcript((Segment(Origin.PROMPT, [1]),)),)}, False),
    ],
)
def test_what_is_trained(changes: dict[str, object], trainable: bool):
    assert trajectory(**changes).trainable is trainable


def test_error_and_stop_belong_together():
    with pytest.raises(ValueError, match="`error` belongs to stop=error"):
        trajectory(error="lost")
    with pytest.raises(ValueError, match="`error` belongs to stop=error"):
        trajectory(stop=StopReason.ERROR)


def test_only_a_failed_trajectory_may_lack_rows():
    assert trajectory(rows=(), stop=StopReason.ERROR, error="lost").n_tokens == 0
    with pytest.raises(ValueError, match="has no row"):
        trajectory(rows=())


def test_limits_are_told_from_endings():
    limits = {stop for stop in StopReason if stop is not StopReason.ERROR}
    truncated = {stop for stop in limits if trajectory(stop=stop).truncated}
    assert limits - truncated == {
        StopReason.TERMINATED,
        StopReason.PARSE_ERRORS,
        StopReason.ABORTED,
    }


def test_an_errored_member_leaves_the_group_s_statistics():
    lost = trajectory(stop=StopReason.ERROR, error="lost", uid="0/t/1")
    group = Group(TASK, (trajectory(), lost))
    assert [member.uid for member in group.scored] == ["0/t/0"]


def test_a_group_holds_one_task():
    with pytest.raises(ValueError, match="is not of task other"):
        Group(Task("other", "?"), (trajectory(),))
