"""RLSP (2502.06773): reward a search for the answer as well as the answer.

r = 0.8 (acc - P / L) + 0.2 effort, L being the reasoning's characters / 4 and effort a judge's grade
in [0, 1]; without a judge r = acc - P / L. acc is -0.5 when no answer was given.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, added, column, spent
from agentrl.rewards.texts import thinking
from agentrl.trajectory import Group, Trajectory

CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Rlsp:
    """Replaces the component (and effort's) by r."""

    effort: str | None = "judge/exploration"
    """Component with the judge's grade; null leaves the judge out."""
    share: float = 0.2
    """Weight of effort; the rest is the outcome's."""
    penalty: float = 1000.0
    """P; 0 removes the pressure to think longer."""
    unanswered: float = -0.5
    """acc when no answer was given."""
    fallback: float = 0.5
    """Effort of a trajectory that was not graded."""
    component: str = COMPONENT

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"rlsp.share is in [0, 1], not {self.share}")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Lengths are of the marked thinking, or of the whole text where none is marked.

        Raises UserError when no sibling's effort was recorded.
        """
        if self.effort is not None and not any(
            self.effort in t.rewards for t in group.trajectories
        ):
            column(group, self.effort, "rlsp")
        return added(shaped, [self.reward(t) - self._before(t) for t in group.trajectories])

    def reward(self, trajectory: Trajectory) -> float:
        """r of one trajectory."""
        answered = trajectory.answer is not None
        acc = trajectory.rewards.get(self.component, 0.0) if answered else self.unanswered
        n_tokens = max(1.0, len(thinking(trajectory)) / CHARS_PER_TOKEN)
        outcome = acc - self.penalty / n_tokens
        if self.effort is None:
            return outcome
        effort = trajectory.rewards.get(self.effort, self.fallback)
        return (1 - self.share) * outcome + self.share * effort

    def _before(self, trajectory: Trajectory) -> float:
        names = (self.component,) if self.effort is None else (self.component, self.effort)
        return spent(trajectory, *names)


__all__ = ["Rlsp"]
