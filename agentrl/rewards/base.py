"""From reward components to the first `Shaped`, what shapers share, and from the last one to a group.

A component is added up into the reward unless its name holds a slash (`tools/executed`,
`judge/thinking`): that is a measurement, recorded and shown, which only a shaper that names it
turns into reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx, RewardShaper, Shaped
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Float32Array, floats_array

COMPONENT = "env"
"""The component that says how right a trajectory is, unless told otherwise."""
CORRECT = 0.5
"""A trajectory counts as correct when that component is above it."""

Count = Literal["sampled", "context"]
"""What a length counts: tokens the policy wrote, or all tokens of the rows."""


def summed(group: Group) -> Shaped:
    """Each trajectory's components added up, measurements left out, f32 [G] in the group's order.

    Trajectories that the world failed get 0.0 as a place holder; `rewarded` leaves them unscored.
    Token rewards that the plan gave (a search tree's values) are where shapers start from.
    """
    sums = [0.0 if t.error is not None else _sum(t.rewards) for t in group.trajectories]
    return Shaped(floats_array(sums), group.token_rewards)


def rewarded(group: Group, shaped: Shaped) -> Group:
    """The group with its scalar and token rewards set; failed trajectories keep None.

    Raises ValueError when the shaper returned another number of rewards.
    """
    members = tuple(
        trajectory if trajectory.error is not None else replace(trajectory, reward=float(reward))
        for trajectory, reward in zip(group.trajectories, shaped.rewards_G, strict=True)
    )
    return replace(group, trajectories=members, token_rewards=shaped.token_rewards_GT)


def measured(component: str) -> bool:
    """Whether the component is a measurement, which is not part of the summed reward."""
    return "/" in component


def correct(trajectory: Trajectory, component: str = COMPONENT, above: float = CORRECT) -> bool:
    """Whether it ended, unfailed, with that component above the bar."""
    return trajectory.error is None and trajectory.rewards.get(component, 0.0) > above


def length(trajectory: Trajectory, count: Count = "sampled") -> int:
    """Tokens of a trajectory; observations cost nothing unless `count` is `context`."""
    return trajectory.n_sampled if count == "sampled" else trajectory.n_tokens


def accuracy(group: Group, component: str = COMPONENT, above: float = CORRECT) -> float:
    """Share of correct trajectories; 0.0 of an empty group."""
    members = group.trajectories
    return sum(correct(t, component, above) for t in members) / max(1, len(members))


def spent(trajectory: Trajectory, *components: str) -> float:
    """What those components have put into the summed reward, for a shaper that replaces them."""
    return _sum({name: trajectory.rewards.get(name, 0.0) for name in set(components)})


def column(group: Group, component: str, shaper: str) -> list[float]:
    """The component of every trajectory.

    Raises UserError that names the shaper when one lacks it: no score is not a score of 0.
    """
    for trajectory in group.trajectories:
        if component not in trajectory.rewards:
            raise UserError(
                f"shaper {shaper} reads the reward component {component!r}, which nothing records; "
                "add the reward function that does to algo.rewards"
            )
    return [t.rewards[component] for t in group.trajectories]


def added(shaped: Shaped, changes: Iterable[float], writes: Sequence[Write] = ()) -> Shaped:
    """The rewards plus one number each, and what this shaper wishes to remember.

    A change of 0.0 leaves a reward bit for bit as it is.
    """
    pairs = zip(shaped.rewards_G, changes, strict=True)
    rewards = floats_array([float(reward) + change for reward, change in pairs])
    return shaped._replace(rewards_G=rewards, writes=tuple(writes))


def with_tokens(
    group: Group,
    shaped: Shaped,
    token_rewards: Sequence[Float32Array],
    writes: Sequence[Write] = (),
) -> Shaped:
    """The token rewards [t] of each trajectory added to those already earned."""
    before = shaped.token_rewards_GT
    if before is not None:
        pairs = zip(before, token_rewards, strict=True)
        token_rewards = [floats_array(old + new) for old, new in pairs]
    for trajectory, rewards in zip(group.trajectories, token_rewards, strict=True):
        if len(rewards) != trajectory.n_tokens:
            raise ValueError(f"{trajectory.uid}: {len(rewards)} token rewards")
    return shaped._replace(token_rewards_GT=tuple(token_rewards), writes=tuple(writes))


def chain(
    shapers: Sequence[RewardShaper], group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx
) -> Shaped:
    """Every shaper in order, each given the one before; the writes of all of them."""
    shaped = shaped._replace(writes=())
    writes: list[Write] = []
    for shaper in shapers:
        shaped = shaper(group, shaped, history, ctx)
        writes.extend(shaped.writes)
    return shaped._replace(writes=tuple(writes))


def _sum(components: Mapping[str, float]) -> float:
    return sum((v for name, v in components.items() if not measured(name)), 0.0)


__all__ = [
    "COMPONENT",
    "CORRECT",
    "Count",
    "accuracy",
    "added",
    "chain",
    "column",
    "correct",
    "length",
    "measured",
    "rewarded",
    "spent",
    "summed",
    "with_tokens",
]
