"""Kimi k1.5's length reward (2501.12599, section 2.3.3), used by Long-Short (2505.11827).

u = 0.5 - (L - min) / (max - min) over the group; right answers get u, wrong ones min(0, u); nobody
gets anything when all are equally long.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, CORRECT, Count, added, correct, length
from agentrl.trajectory import Group


@dataclass(frozen=True, slots=True)
class KimiLength:
    """Adds weight times the length reward."""

    weight: float = 1.0
    count: Count = "sampled"
    component: str = COMPONENT
    above: float = CORRECT

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Least and most are taken over all siblings, right or wrong."""
        lengths = [length(t, self.count) for t in group.trajectories]
        least, span = min(lengths, default=0), max(lengths, default=0) - min(lengths, default=0)
        if span == 0:
            return shaped._replace(writes=())
        changes: list[float] = []
        for trajectory, n_tokens in zip(group.trajectories, lengths, strict=True):
            u = 0.5 - (n_tokens - least) / span
            ok = correct(trajectory, self.component, self.above)
            changes.append(self.weight * (u if ok else min(0.0, u)))
        return added(shaped, changes)


__all__ = ["KimiLength"]
