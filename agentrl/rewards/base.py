"""From reward components to the first `Shaped`, and from the last one to a group."""

from __future__ import annotations

from dataclasses import replace

from agentrl.points import Shaped
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import floats_array

COMPONENT = "env"
"""The component that says how right a trajectory is, unless told otherwise."""
CORRECT = 0.5
"""A trajectory counts as correct when that component is above it."""


def summed(group: Group) -> Shaped:
    """Each trajectory's components added up, f32 [G] in the group's order.

    Trajectories that the world failed get 0.0 as a place holder; `rewarded` leaves them unscored.
    """
    sums = [0.0 if t.error is not None else sum(t.rewards.values()) for t in group.trajectories]
    return Shaped(floats_array(sums))


def rewarded(group: Group, shaped: Shaped) -> Group:
    """The group with its scalar and token rewards set; failed trajectories keep None.

    Raises ValueError when the shaper returned another number of rewards.
    """
    members = tuple(
        trajectory if trajectory.error is not None else replace(trajectory, reward=float(reward))
        for trajectory, reward in zip(group.trajectories, shaped.rewards_G, strict=True)
    )
    return replace(group, trajectories=members, token_rewards=shaped.token_rewards_GT)


def correct(trajectory: Trajectory, component: str = COMPONENT, above: float = CORRECT) -> bool:
    """Whether it ended, unfailed, with that component above the bar."""
    return trajectory.error is None and trajectory.rewards.get(component, 0.0) > above


__all__ = ["COMPONENT", "CORRECT", "correct", "rewarded", "summed"]
