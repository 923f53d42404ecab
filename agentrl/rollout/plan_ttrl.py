"""TTRL's pool (2504.16084): many votes for the pseudo-label, the first of them trained.

All `votes` members answer, and shaper `ttrl` takes the majority of all; only the first `group_size`
that the world did not fail are trained. The others carry the named reason `vote_only`: shapers see
them, and nothing after shaping does (gates, the siblings' mean and deviation, the loss).
"""

from __future__ import annotations

from dataclasses import replace

from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.siblings import sampled
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

VOTE_ONLY = "vote_only"
"""Why a voter beyond the first `group_size` trains nothing; one of `agentrl.trajectory.ASIDE`."""


class VotePool:
    """`votes` independent siblings, `group_size` of them trained."""

    def __init__(self, *, group_size: int = 8, votes: int = 64) -> None:
        """votes: members that answer, the trained ones among them (paper: 64, 32 trained)."""
        if votes < group_size:
            raise UserError(
                f"rollout.plan.votes={votes} is less than rollout.group_size={group_size}; every "
                "trained member votes"
            )
        self._group_size, self._votes = group_size, votes

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`votes` trajectories in sibling order, those not trained marked."""
        members = await sampled(task, services, ctx, range(self._votes))
        answered = [t.sibling for t in members if t.error is None]
        trained = set(answered[: self._group_size])
        return Group(task, tuple(_placed(t, t.sibling in trained) for t in members), ctx.step)


def _placed(trajectory: Trajectory, trained: bool) -> Trajectory:
    if trained or trajectory.error is not None:
        return trajectory
    return replace(trajectory, excluded=trajectory.excluded or VOTE_ONLY)


__all__ = ["VOTE_ONLY", "VotePool"]
