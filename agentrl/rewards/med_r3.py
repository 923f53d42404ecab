"""Med-R3's released reward (2507.23541): judged answer, knowledge-graph agreement, soft penalties.

Answer grades 0, 1, 2 are worth 0.1, 0.4, 1.0. A failed format gate gives 0.1 and a malformed search
protocol -0.1, and nothing more. Else R = max(answer + 0.8 kg, 0) - 0.1 (1 - format) - 0.1 (1 - s)
- 0.1 (1 - lang_think) - 0.1 (1 - lang_answer), with s = (1 - exp(-min(T / A, 2))) / (1 - exp(-2)) of
the thinking's and the answer's characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, added, column, spent
from agentrl.rewards.texts import spoken, thinking
from agentrl.trajectory import Group, Trajectory

GRADES: Mapping[int, float] = {0: 0.1, 1: 0.4, 2: 1.0}
"""The judge's grade -> answer score."""

Triple = tuple[str, str, str]
"""Head, relation, tail."""


def jaccard(a: Iterable[object], b: Iterable[object]) -> float:
    """Shared over all; 1.0 of two empty sets."""
    one, other = set(a), set(b)
    return len(one & other) / len(one | other) if one | other else 1.0


def root_paths(graph: Sequence[Triple]) -> set[tuple[str, ...]]:
    """All paths from a root (never a tail) to each node it reaches, as alternating names.

    A graph without a root, all cycles, has its first head as root.
    """
    tails = {tail for _, _, tail in graph}
    roots = [head for head, _, _ in graph if head not in tails] or [h for h, _, _ in graph[:1]]
    found: set[tuple[str, ...]] = set()
    open_paths: list[tuple[str, ...]] = [(root,) for root in dict.fromkeys(roots)]
    while open_paths:
        path = open_paths.pop()
        for head, relation, tail in graph:
            longer = (*path, relation, tail)
            if head == path[-1] and tail not in path[::2] and longer not in found:
                found.add(longer)
                open_paths.append(longer)
    return found


def graph_score(graph: Sequence[Triple], reference: Sequence[Triple], cosine: float) -> float:
    """kg against one reference: the mean of path agreement, embedding cosine, entity agreement."""
    entities = jaccard(_entities(graph), _entities(reference))
    return (jaccard(root_paths(graph), root_paths(reference)) + cosine + entities) / 3


def _entities(graph: Sequence[Triple]) -> set[str]:
    return {name for head, _, tail in graph for name in (head, tail)}


def balance(n_think: int, n_answer: int) -> float:
    """s in [0, 1]: 1 once the thinking is twice as long as the answer."""
    ratio = 2.0 if n_answer == 0 else min(n_think / n_answer, 2.0)
    return (1 - math.exp(-ratio)) / (1 - math.exp(-2))


@dataclass(frozen=True, slots=True)
class MedR3:
    """Replaces the components it reads by R."""

    grade: str = "judge/answer"
    """Component with the judge's 0, 1 or 2."""
    kg: str = "med_r3/kg"
    """Component with the best graph score over the references; absent counts 0."""
    format: str = "med_r3/format"
    """Component with the format score: 0 fails the gate, below 0 is a malformed search."""
    languages: tuple[str, ...] = ("med_r3/lang_think", "med_r3/lang_answer")
    """Components with the share of text in the question's language; absent counts 1."""
    kg_weight: float = 0.8
    penalty: float = 0.1
    failed: float = 0.1
    malformed: float = -0.1
    component: str = COMPONENT
    grades: Mapping[int, float] = field(default_factory=lambda: dict(GRADES))

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when grade or format was not recorded, or on a grade that has no score."""
        column(group, self.format, "med_r3")
        column(group, self.grade, "med_r3")
        return added(shaped, [self.reward(t) - self._before(t) for t in group.trajectories])

    def reward(self, trajectory: Trajectory) -> float:
        """R of one trajectory."""
        scores = trajectory.rewards
        form = scores[self.format]
        if form <= 0:
            return self.failed if form == 0 else self.malformed
        grade = int(scores[self.grade])
        if grade not in self.grades:
            raise UserError(f"med_r3 knows the grades {sorted(self.grades)}, not {grade}")
        missing = [1 - form, 1 - balance(len(thinking(trajectory)), len(spoken(trajectory)))]
        missing += [1 - scores.get(name, 1.0) for name in self.languages]
        earned = self.grades[grade] + self.kg_weight * scores.get(self.kg, 0.0)
        return max(earned, 0.0) - self.penalty * sum(missing)

    def _before(self, trajectory: Trajectory) -> float:
        names = (self.component, self.grade, self.kg, self.format, *self.languages)
        return spent(trajectory, *names)


__all__ = ["GRADES", "MedR3", "Triple", "balance", "graph_score", "jaccard", "root_paths"]
