"""HAPO (2505.11225): be shorter than your own shortest right answer to this task so far.

h is the task's history of correct lengths before this step, None until its first success. Within a
step every sibling sees the same h, whatever its siblings just achieved: read before write.

cosine (section 3.2): c = cos((L / h) pi / 2) if L < 2 h else -1; right: max(-0.7, c); wrong:
    min(0, c).
linear: right and L < h: 1 - L / h; else 0 below 1.1 h; above it -(L - 1.1 h) / h, at least -0.7
    when right and -1 when wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, CORRECT, Count, added, correct, length
from agentrl.rewards.repetition import covered_share
from agentrl.rewards.texts import sampled_ids
from agentrl.trajectory import Group, Trajectory

NAMESPACE = "hapo"
"""HistoryStore namespace, followed by the mode: task id -> correct length so far."""
FLOOR = -0.7
"""Least length reward of a right answer: with w <= 1 it still beats every wrong one."""
GRAM = 3
"""Tokens of the repetition option's n-gram."""

Form = Literal["cosine", "linear"]
Mode = Literal["min", "mean"]


def length_reward(n_tokens: int, known: float | None, *, ok: bool, form: Form = "cosine") -> float:
    """r_len of an answer of `n_tokens`, `known` being h; 0 before the first success."""
    if known is None:
        return 0.0
    ratio = n_tokens / known
    if form == "cosine":
        c = math.cos(ratio * math.pi / 2) if ratio < 2 else -1.0
        return max(FLOOR, c) if ok else min(0.0, c)
    if ok and ratio < 1:
        return 1 - ratio
    return 0.0 if ratio < 1.1 else max(FLOOR if ok else -1.0, 1.1 - ratio)


@dataclass(frozen=True, slots=True)
class Hapo:
    """Adds w r_len, minus the repetition option; offers every correct length to the history."""

    w: float = 1.0
    """Weight in [0, 1]; 0 changes nothing."""
    form: Form = "cosine"
    mode: Mode = "min"
    """h is the least, or the running mean, of the correct lengths."""
    repetition: float = 0.0
    """Penalty for a text wholly inside repeated 3-grams, in proportion below that."""
    count: Count = "sampled"
    component: str = COMPONENT
    above: float = CORRECT

    def __post_init__(self) -> None:
        if not 0 <= self.w <= 1 or self.repetition < 0:
            raise UserError(
                f"hapo needs 0 <= w <= 1 and repetition >= 0, not {self.w} and {self.repetition}"
            )

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Reads the committed h only; the group's own lengths count from the next step on."""
        space = f"{NAMESPACE}.{self.mode}"
        known = history.get(space, group.task.id)
        reduce = "min" if self.mode == "min" else "count_mean"
        writes = [
            Write(space, group.task.id, float(max(1, length(t, self.count))), reduce, t.uid)
            for t in group.trajectories
            if self._ok(t)
        ]
        return added(shaped, [self._change(t, known) for t in group.trajectories], writes)

    def _ok(self, trajectory: Trajectory) -> bool:
        return correct(trajectory, self.component, self.above)

    def _change(self, trajectory: Trajectory, known: float | None) -> float:
        n_tokens = length(trajectory, self.count)
        change = self.w * length_reward(n_tokens, known, ok=self._ok(trajectory), form=self.form)
        if self.repetition:
            change -= self.repetition * covered_share(sampled_ids(trajectory), GRAM)
        return change


__all__ = ["NAMESPACE", "Form", "Hapo", "Mode", "length_reward"]
