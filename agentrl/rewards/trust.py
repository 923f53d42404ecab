"""Trust-GRPO (SophiaVL-R1, 2505.17018): a thinking reward, trusted as far as it agrees with the outcome.

R = R_o + gamma alpha exp(-step / T) R_t, with mu_c and mu_w the mean thinking reward among right
(R_o >= 0.5) and wrong answers of the group; gamma = 1 if mu_c >= mu_w else exp(mu_c - mu_w).

The released code sets R_t to 0 where R_o < 0.2 and in groups all right or all wrong, so that gamma is
almost always 1: `zero_on_wrong`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, added, column, measured
from agentrl.trajectory import Group

RIGHT = 0.5
WRONG = 0.2


def trust(outcomes: Sequence[float], thoughts: Sequence[float]) -> float:
    """gamma in (0, 1]; 1 when one of the two sides is empty."""
    right = [t for o, t in zip(outcomes, thoughts, strict=True) if o >= RIGHT]
    wrong = [t for o, t in zip(outcomes, thoughts, strict=True) if o < RIGHT]
    if not right or not wrong:
        return 1.0
    return min(1.0, math.exp(fmean(right) - fmean(wrong)))


@dataclass(frozen=True, slots=True)
class Trust:
    """Adds the trusted part of the thinking reward."""

    alpha: float = 0.3
    decay_steps: float | None = 12_000.0
    """T of the annealing; null for none."""
    thinking: str = "judge/thinking"
    """Component with R_t."""
    zero_on_wrong: bool = False
    """The released code's form."""
    component: str = COMPONENT

    def __post_init__(self) -> None:
        if self.alpha < 0 or (self.decay_steps is not None and self.decay_steps <= 0):
            raise UserError("trust needs alpha >= 0 and decay_steps > 0 (or null)")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when the thinking reward was not recorded."""
        outcomes = [t.rewards.get(self.component, 0.0) for t in group.trajectories]
        recorded = column(group, self.thinking, "trust")
        thoughts = self._kept(outcomes, recorded)
        decay = 1.0 if self.decay_steps is None else math.exp(-ctx.step / self.decay_steps)
        factor = trust(outcomes, thoughts) * self.alpha * decay
        before = [0.0] * len(recorded) if measured(self.thinking) else recorded
        pairs = zip(thoughts, before, strict=True)
        return added(shaped, [factor * thought - old for thought, old in pairs])

    def _kept(self, outcomes: list[float], thoughts: list[float]) -> list[float]:
        if not self.zero_on_wrong:
            return thoughts
        if len({outcome >= RIGHT for outcome in outcomes}) < 2:
            return [0.0] * len(thoughts)
        return [0.0 if o < WRONG else t for o, t in zip(outcomes, thoughts, strict=True)]


__all__ = ["Trust", "trust"]
