"""The buffer of groups that fill later batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentrl.errors import UserError
from agentrl.rewards.base import rewarded, summed
from agentrl.train import replay
from agentrl.trajectory import Group
from agentrl.trajectory_json import to_line


def scored(hand: Any, name: str, *rewards: float | None, step: int = 0) -> Group:
    group = hand.group(name, *rewards, step=step)
    return rewarded(group, summed(group))


def test_worth_is_the_deviation_of_what_was_scored(hand: Any) -> None:
    assert replay.worth(scored(hand, "a", 1.0, 0.0, 0.0, 1.0)) == pytest.approx(0.5)
    assert replay.worth(scored(hand, "a", 1.0, 0.0, 0.0, 0.0)) == pytest.approx(3**0.5 / 4)
    assert replay.worth(scored(hand, "a", 1.0, 1.0, None)) == 0


def test_keeps_the_most_worth_newest_first_and_nothing_flat(hand: Any) -> None:
    even = scored(hand, "even", 1.0, 0.0, step=1)
    newer = scored(hand, "newer", 1.0, 0.0, step=2)
    odd = scored(hand, "odd", 1.0, 0.0, 0.0, 0.0, step=2)
    flat = scored(hand, "flat", 1.0, 1.0, step=2)
    kept = replay.remembered([even], [odd, flat, newer], capacity=2)
    assert [g.task.id for g in kept] == ["newer", "even"]
    assert replay.remembered(kept, [odd], capacity=0) == ()
    used, left = replay.drawn(kept, 1)
    assert [g.task.id for g in used] == ["newer"]
    assert [g.task.id for g in left] == ["even"]


def test_survives_a_checkpoint(hand: Any) -> None:
    group = scored(hand, "a", 1.0, 0.0, None, step=4)
    per_token = tuple(replace(t).rows[0].logprobs * 0.25 for t in group.trajectories)
    group = replace(group, token_rewards=per_token)
    (back,) = replay.from_json(replay.to_json([group]))
    assert (back.task, back.step) == (group.task, 4)
    assert [to_line(t) for t in back.trajectories] == [to_line(t) for t in group.trajectories]
    assert [row.tolist() for row in back.token_rewards or ()] == [r.tolist() for r in per_token]
    with pytest.raises(UserError, match="replay buffer cannot be read"):
        replay.from_json([{"step": 1}])
