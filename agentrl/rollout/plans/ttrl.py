"""TTRL's pool (2504.16084): many votes for the pseudo-label, the first of them trained.

All `votes` members answer, and shaper `ttrl` takes the majority of all; only the first `group_size`
that the world did not fail are trained. The others carry the named reason `vote_only`: shapers see
them, and nothing after shaping does (gates, the siblings' mean and deviation, the loss).

Measurements, for people alone: `vote/share`, the share of the most frequent answer among all votes, and
`vote/label`, 1 when the environment finds that answer right. Answers are one when their stripped texts
are equal, the first seen wins a tie, as in the shaper's `same: exact`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.siblings import sampled
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
        answered = [t for t in members if t.error is None]
        trained = {t.sibling for t in answered[: self._group_size]}
        told = _measured(answered)
        placed = (_placed(t, t.sibling in trained, told) for t in members)
        return Group(task, tuple(placed), ctx.step)


def _placed(trajectory: Trajectory, trained: bool, told: Mapping[str, float]) -> Trajectory:
    if trajectory.error is not None:
        return trajectory
    if not trained:
        trajectory = replace(trajectory, excluded=trajectory.excluded or VOTE_ONLY)
    return trajectory.scored(**told)


def _measured(voters: Sequence[Trajectory]) -> Mapping[str, float]:
    """What the pool agrees on, and whether it is right."""
    votes = Counter(t.answer.strip() for t in voters if t.answer is not None)
    if not votes:
        return {"vote/share": 0.0, "vote/label": 0.0}
    label, n = max(votes.items(), key=lambda vote: vote[1])
    right = any(t.correct for t in voters if (t.answer or "").strip() == label)
    return {"vote/share": n / len(voters), "vote/label": float(right)}


__all__ = ["VOTE_ONLY", "VotePool"]
