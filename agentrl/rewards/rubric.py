"""RuscaRL's rubric reward (2508.16949): points of the criteria that are met, over all positive points.

Each criterion of the task's metadata `rubric`, a list of `{criterion, points}`, is one yes-or-no
question to the judge. Negative points count when met. The sum may be negative.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from agentrl.errors import UserError, WorldFault
from agentrl.points import Need, Services
from agentrl.rewards.asking import ask, check_asking, judge_of, read_verdict
from agentrl.rewards.texts import spoken
from agentrl.trajectory import Trajectory
from agentrl.types import Task


@dataclass(frozen=True, slots=True)
class Criterion:
    """One line of a rubric."""

    text: str
    points: float


def rubric_score(points: Sequence[float], met: Sequence[bool]) -> float:
    """Points met over positive points. Raises UserError when no criterion has any."""
    positive = sum(p for p in points if p > 0)
    if positive <= 0:
        raise UserError("a rubric needs at least one criterion with positive points")
    return sum(p for p, is_met in zip(points, met, strict=True) if is_met) / positive


def rubric_of(task: Task) -> list[Criterion]:
    """The task's criteria. Raises UserError when its metadata has none, or in another form."""
    told = f'task {task.id} needs metadata "rubric": a list of {{"criterion": ..., "points": ...}}'
    listed = task.metadata.get("rubric")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise UserError(told)
    found: list[Criterion] = []
    for item in listed:
        if not isinstance(item, Mapping):
            raise UserError(told)
        line = cast(Mapping[str, object], item)
        text, points = line.get("criterion"), line.get("points")
        if not isinstance(text, str) or not isinstance(points, (int, float)):
            raise UserError(told)
        found.append(Criterion(text, float(points)))
    return found


@dataclass(frozen=True, slots=True)
class Rubric:
    """Component `rubric`; measurements `rubric/met` (share) and `rubric/failed` (criteria)."""

    needs: ClassVar[frozenset[Need]] = frozenset({"judge"})

    component: str = "rubric"
    tries: int = 2
    deadline_s: float = 120.0
    fallback: bool = True
    """A criterion without a verdict counts as not met, and as failed; false fails the trajectory."""

    def __post_init__(self) -> None:
        check_asking("rubric", self.tries, self.deadline_s)

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Asks all criteria at once; the judge bounds how many run."""
        judge_of(services)
        criteria = rubric_of(trajectory.task)
        async with asyncio.TaskGroup() as asking:
            asked = [
                asking.create_task(self._met(trajectory, criterion, services))
                for criterion in criteria
            ]
        verdicts = [task.result() for task in asked]
        lost = next((v for v in verdicts if isinstance(v, WorldFault)), None)
        if lost is not None and not self.fallback:
            raise lost
        met = [verdict is True for verdict in verdicts]
        return {
            self.component: rubric_score([c.points for c in criteria], met),
            f"{self.component}/met": sum(met) / len(met),
            f"{self.component}/failed": float(sum(isinstance(v, WorldFault) for v in verdicts)),
        }

    async def _met(
        self, trajectory: Trajectory, criterion: Criterion, services: Services
    ) -> bool | WorldFault:
        """The verdict, or the fault as a value: one lost criterion must not cancel the others."""
        prompt = (
            "Does the response meet this criterion? Reply with yes or no.\n\n"
            f"Criterion:\n{criterion.text}\n\nQuestion:\n{trajectory.task.question}\n\n"
            f"Response:\n{spoken(trajectory)}"
        )
        try:
            return await ask(
                services, prompt, read_verdict, tries=self.tries, deadline_s=self.deadline_s
            )
        except WorldFault as fault:
            return fault


__all__ = ["Criterion", "Rubric", "rubric_of", "rubric_score"]
