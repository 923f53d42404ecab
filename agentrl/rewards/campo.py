"""CAMPO (MiroMind-M1, 2507.14683): the reward minus the share of the response that loops.

The paper subtracts f(y), the share of the sequence inside a terminal loop. The released code
subtracts a constant, and only from responses cut at their limit: `form: constant`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import added
from agentrl.rewards.repetition import loop_share
from agentrl.rewards.texts import sampled_ids
from agentrl.trajectory import Group, Trajectory

Form = Literal["graded", "constant"]


@dataclass(frozen=True, slots=True)
class Campo:
    """Subtracts the repetition penalty."""

    form: Form = "graded"
    weight: float = 1.0
    """Factor on f(y) in the paper's form; the constant itself in the code's (0.1, or 0.2)."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Reads sampled tokens only."""
        return added(shaped, [0.0 - self.weight * self._share(t) for t in group.trajectories])

    def _share(self, trajectory: Trajectory) -> float:
        if self.form == "graded":
            return loop_share(sampled_ids(trajectory))
        return float(trajectory.truncated and loop_share(sampled_ids(trajectory)) > 0)


__all__ = ["Campo", "Form"]
