"""Noisy rewards (2505.22653): flip a right answer's reward to a wrong one's, with a known probability.

With probability p per prompt the whole group's r becomes 1 - r (the paper's PPO run); `per: sample`
flips trajectories one by one. Flips depend on the run's seed, the step and the ids, never on order.
Under a group-normalised advantage a flipped group has exactly the negated advantages.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, added
from agentrl.seeds import derive
from agentrl.trajectory import Group


@dataclass(frozen=True, slots=True)
class Noise:
    """Replaces the component r by 1 - r where the coin says so."""

    p: float = 0.4
    per: Literal["group", "sample"] = "group"
    component: str = COMPONENT

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise UserError(f"noise.p is a probability, not {self.p}")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        names = [group.task.id if self.per == "group" else t.uid for t in group.trajectories]
        changes = [
            1 - 2 * t.rewards.get(self.component, 0.0) if self.flips(name, ctx) else 0.0
            for t, name in zip(group.trajectories, names, strict=True)
        ]
        return added(shaped, changes)

    def flips(self, name: str, ctx: Ctx) -> bool:
        """The coin of a task or trajectory at this step."""
        return Random(derive(ctx.seed, "noise", ctx.step, name)).random() < self.p


__all__ = ["Noise"]
