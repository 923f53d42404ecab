"""AdaptThink (2505.13417): think only where it pays.

Equation 6: r = acc - ref_acc(task) + delta [NoThinking]. The advantage is r itself (`identity`),
so the reference accuracy is the baseline: what thinking achieves on the task. A trajectory is
NoThinking when its first sampled text closes the thinking before any of it.

Deviation: the paper samples 16 reference responses per task beforehand. That number is read from
the task's metadata when it is there; else from `reference`; else it is the mean over the thinking
trajectories of the task in earlier steps, and on its first visit over this group's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import fmean

from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, added
from agentrl.rewards.texts import first_text
from agentrl.trajectory import Group, Trajectory

NAMESPACE = "adaptthink.acc"
"""HistoryStore namespace: task id -> mean accuracy of thinking trajectories."""

_CLOSED = re.compile(r"\s*(<think>\s*)?</think>")


def no_thinking(trajectory: Trajectory, opening: str | None = None) -> bool:
    """Whether the response starts by closing its thinking, or with `opening`."""
    text = first_text(trajectory)
    return _CLOSED.match(text) is not None if opening is None else text.startswith(opening)


@dataclass(frozen=True, slots=True)
class AdaptThink:
    """Adds delta [NoThinking] - ref_acc."""

    delta: float = 0.05
    """How much accuracy an answer without thinking may cost."""
    reference: float | None = None
    """ref_acc of tasks whose metadata has none; null takes the history."""
    metadata: str = "ref_acc"
    """Key of the task's metadata that holds ref_acc."""
    component: str = COMPONENT
    no_thinking: str | None = None
    """What a response without thinking starts with, where that is not a closed `</think>`: a model
    whose thinking is its code answers at once."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Offers the accuracy of each thinking trajectory to the history."""
        silent = [no_thinking(t, self.no_thinking) for t in group.trajectories]
        thought = [t for t, s in zip(group.trajectories, silent, strict=True) if not s]
        reference = self._reference(group, thought, history)
        writes = [
            Write(NAMESPACE, group.task.id, self._acc(t), "count_mean", t.uid) for t in thought
        ]
        return added(shaped, [self.delta * s - reference for s in silent], writes)

    def _acc(self, trajectory: Trajectory) -> float:
        return trajectory.rewards.get(self.component, 0.0)

    def _reference(self, group: Group, thought: list[Trajectory], history: HistoryStore) -> float:
        known = group.task.metadata.get(self.metadata)
        if isinstance(known, (int, float)):
            return float(known)
        if self.reference is not None:
            return self.reference
        before = history.get(NAMESPACE, group.task.id)
        if before is not None:
            return before
        return fmean(self._acc(t) for t in thought) if thought else 0.0


__all__ = ["NAMESPACE", "AdaptThink", "no_thinking"]
