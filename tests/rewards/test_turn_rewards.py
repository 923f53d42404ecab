"""Token rewards: where a turn ends, what its calls earned, and what a plan already gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agentrl.history import HistoryStore
from agentrl.points import Ctx
from agentrl.rewards.base import summed
from agentrl.rewards.texts import runs, turn_ends
from agentrl.rewards.turn_calls import TurnCalls
from agentrl.train.collect import shape
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript, floats_array

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]
Calls = Callable[..., CallRecord]


def model(*ids: int) -> Segment:
    return Segment(Origin.MODEL, ids, [-1.0] * len(ids), version=0)  # type: ignore[arg-type]


def placed(origin: Origin, *ids: int) -> Segment:
    return Segment(origin, ids)  # type: ignore[arg-type]


def test_turns_end_at_observations_and_rows_not_at_glue(member: Member):
    """Row 1: P M M S M O M (turns end at 4 and 6); row 2: P M (its end is at 8)."""
    first = Transcript().append(
        placed(Origin.PROMPT, 1), model(2, 3), placed(Origin.SCAFFOLD, 4), model(5),
        placed(Origin.OBSERVATION, 6), model(7),
    )  # fmt: skip
    second = Transcript().append(placed(Origin.PROMPT, 1), model(8))
    trajectory = replace(member(), rows=(first, second))
    assert turn_ends(trajectory) == [4, 6, 8]
    assert [(r.row, r.start, r.offset) for r in runs(trajectory)] == [
        (0, 1, 1),
        (0, 4, 4),
        (0, 6, 6),
        (1, 1, 8),
    ]


def test_calls_are_paid_at_the_turn_that_made_them(
    member: Member, group: Groups, call: Calls, ctx: Ctx
):
    """P T O T O T: a good call in turn 0 that found 42, a bad and a good one in turn 1."""
    calls = [
        replace(call("it is 42"), turn=0),
        replace(call("x", "execution"), turn=1),
        replace(call("4"), turn=1),
    ]
    one = group(member(0, 1.0, turns=("a", "b", "c"), observations=("o", "o"), calls=calls))
    shaped = TurnCalls(failure=-0.5, found=0.3)(one, summed(one), HistoryStore(), ctx)
    assert shaped.rewards_G.tolist() == [1.0]
    assert shaped.token_rewards_GT is not None
    assert shaped.token_rewards_GT[0].tolist() == pytest.approx([0, 0.5, 0, -0.3, 0, 0])


def test_token_rewards_of_a_plan_are_kept_and_added_to(
    member: Member, group: Groups, call: Calls, ctx: Ctx
):
    """A search tree's values come with the group; a failed sibling does not shift them."""
    failed = replace(member(0), stop=StopReason.ERROR, error="lost")
    good = member(1, 1.0, n_sampled=2, calls=[call()])
    values = (floats_array([0.0, 7.0]), floats_array([0.0, 0.25, 0.5]))
    both = replace(group(failed, good), token_rewards=values)
    plain, _ = shape(both, (), HistoryStore(), ctx)
    assert plain.token_rewards is not None
    assert plain.token_rewards[1].tolist() == [0, 0.25, 0.5]
    paid, _ = shape(both, (TurnCalls(success=1.0),), HistoryStore(), ctx)
    assert paid.token_rewards is not None
    assert [t.tolist() for t in paid.token_rewards] == [[0, 0], [0, 0.25, 1.5]]
    assert [t.reward for t in paid.trajectories] == [None, 1.0]
