"""Group gates that weigh instead of choosing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Drop, Keep, Verdict
from agentrl.trajectory import Group


@dataclass(frozen=True, slots=True)
class DifficultyWeight:
    """Weight 4 d (1 - d) sqrt(dpi): half solved and still diverse counts most (PC-GRPO, 2512.14944).

    d is the group's mean component in [0, 1]; dpi the diversity of its answers: their entropy over
    log K with K choices, else (distinct - 1) / (answers - 1) (permutation puzzles). Unanswered
    trajectories count in d alone. Nothing is dropped: an easy or hard group weighs 0.
    """

    choices: int | None = None
    """K, how many answers there are to choose from; None takes the second form."""
    component: str = "env"

    def __post_init__(self) -> None:
        if self.choices is not None and self.choices < 2:
            raise UserError(f"difficulty_weight needs algo.gate.choices >= 2, not {self.choices}")

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Keep with the weight."""
        members = group.scored
        if not members:
            return Drop("failed")
        d = min(1.0, max(0.0, fmean(t.rewards.get(self.component, 0.0) for t in members)))
        answers = [t.answer for t in members if t.answer is not None]
        return Keep(weight=4 * d * (1 - d) * math.sqrt(diversity(answers, self.choices)))


def diversity(answers: Sequence[str], choices: int | None = None) -> float:
    """dpi in [0, 1]; 0 for fewer than two answers."""
    if len(answers) < 2:
        return 0.0
    counts = Counter(answers).values()
    if choices is None:
        return (len(counts) - 1) / (len(answers) - 1)
    shares = [count / len(answers) for count in counts]
    return min(1.0, max(0.0, -sum(p * math.log(p) for p in shares) / math.log(choices)))


__all__ = ["DifficultyWeight", "diversity"]
