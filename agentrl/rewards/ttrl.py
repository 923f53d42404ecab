"""TTRL (2504.16084): no labels; the majority of the group's answers is the pseudo-label.

r = 1 when the answer is the majority's, else 0. Ties go to the answer seen first, in sibling order;
no answer is never the majority's. The hidden gold plays no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, added, spent
from agentrl.trajectory import Group, Trajectory
from agentrl.verify.text_answer import normalise_text


def majority(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, of equals the first; None when nobody answered."""
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes, key=votes.__getitem__, default=None)


@dataclass(frozen=True, slots=True)
class Ttrl:
    """Replaces the component by agreement with the majority."""

    same: Literal["exact", "text"] = "exact"
    """Answers are one when their stripped, or their normalised (SQuAD), texts are equal."""
    component: str = COMPONENT

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Every sibling votes."""
        ordered = sorted(group.trajectories, key=lambda t: (t.sibling, t.uid))
        winner = majority([self._answer(t) for t in ordered])
        changes = [
            float(winner is not None and self._answer(t) == winner) - spent(t, self.component)
            for t in group.trajectories
        ]
        return added(shaped, changes)

    def _answer(self, trajectory: Trajectory) -> str | None:
        answer = trajectory.answer
        if answer is None:
            return None
        return normalise_text(answer) if self.same == "text" else answer.strip()


__all__ = ["Ttrl", "majority"]
