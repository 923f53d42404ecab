"""Groups kept for later steps: the selective sample buffer.

Skywork R1V2 (2504.16656, section 3.3) caches samples whose advantage is not zero and draws from them,
by the size of their advantages, when a batch lacks groups that teach something. Here the unit is a
group, its worth the deviation of its rewards, and the most worth are drawn first instead of by
chance. A stored trajectory keeps its behaviour logprobs; the off-policy correction weighs its age.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import pstdev
from typing import Any, cast

from agentrl.errors import UserError
from agentrl.trajectory import Group
from agentrl.trajectory_json import from_line, to_line
from agentrl.transcript import floats_array
from agentrl.types import JsonValue


def worth(group: Group) -> float:
    """Population deviation of the shaped rewards; 0 for a group that teaches nothing."""
    rewards = [t.reward for t in group.scored if t.reward is not None]
    return pstdev(rewards) if rewards else 0.0


def remembered(kept: Sequence[Group], new: Sequence[Group], capacity: int) -> tuple[Group, ...]:
    """At most `capacity` groups of worth, newest first among equals; the others are forgotten."""
    candidates = [group for group in (*new, *kept) if worth(group) > 0]
    ranked = sorted(candidates, key=lambda g: (-worth(g), -g.step, g.task.id))
    return tuple(ranked[:capacity])


def drawn(kept: Sequence[Group], n: int) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """The `n` groups of most worth, and the rest: each is used once."""
    return tuple(kept[:n]), tuple(kept[n:])


def to_json(kept: Sequence[Group]) -> list[JsonValue]:
    """For the checkpoint: trajectories as the lines of a run folder."""
    return [
        {
            "step": group.step,
            "lines": [to_line(trajectory) for trajectory in group.trajectories],
            "token_rewards": None
            if group.token_rewards is None
            else [[float(f"{x:.9g}") for x in row] for row in group.token_rewards],
        }
        for group in kept
    ]


def from_json(data: JsonValue) -> tuple[Group, ...]:
    """What `to_json` gave. Raises UserError on anything else."""
    try:
        return tuple(_group(item) for item in cast(Sequence[Any], data))
    except (TypeError, KeyError, IndexError) as error:
        raise UserError(
            f"the checkpoint's replay buffer cannot be read ({error}); start a new run"
        ) from None


def _group(item: Any) -> Group:
    members = tuple(from_line(line) for line in item["lines"])
    scores = item["token_rewards"]
    per_token = None if scores is None else tuple(floats_array(row) for row in scores)
    return Group(members[0].task, members, int(item["step"]), per_token)


__all__ = ["drawn", "from_json", "remembered", "to_json", "worth"]
