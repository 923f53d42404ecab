"""Posterior-GRPO (2508.05170): a thinking reward counts only where the outcome is right.

R = R_format + R_outcome + R_outcome R_think. The gate that any learned process reward should have.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, added, column, measured
from agentrl.trajectory import Group


@dataclass(frozen=True, slots=True)
class Posterior:
    """Adds weight R_outcome R_think; the other components stay as they are."""

    weight: float = 1.0
    thinking: str = "judge/thinking"
    """Component with R_think in [0, 1]."""
    component: str = COMPONENT

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when the thinking reward was not recorded."""
        thoughts = column(group, self.thinking, "p_grpo")
        before = [0.0] * len(thoughts) if measured(self.thinking) else thoughts
        changes = [
            self.weight * t.rewards.get(self.component, 0.0) * thought - old
            for t, thought, old in zip(group.trajectories, thoughts, before, strict=True)
        ]
        return added(shaped, changes)


__all__ = ["Posterior"]
