"""The evaluation that a run repeats: same tasks, same sampling seeds at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.evaluate.report import EvalReport, report
from agentrl.evaluate.run import play
from agentrl.points import Ctx, RolloutPlan, Services
from agentrl.types import Task


@dataclass(frozen=True, slots=True)
class Exam:
    """What is asked, how often, and how it is played."""

    every: int
    """Steps between evaluations; 0 for none."""
    tasks: Sequence[Task]
    plan: RolloutPlan
    services: Services

    def due(self, step: int, total_steps: int) -> bool:
        """At step 0, every `every` steps and at the end."""
        return self.every > 0 and (step % self.every == 0 or step == total_steps)

    async def sit(self, seed: int, total_steps: int) -> EvalReport:
        """Play the tasks."""
        ctx = Ctx(step=0, total_steps=total_steps, seed=seed)
        groups = await play(self.tasks, self.plan, self.services, ctx, arrived=lambda _: None)
        return report(groups)


def metrics(found: EvalReport) -> dict[str, float]:
    """What a step's line says of it."""
    return {
        "eval/accuracy": found.accuracy.value,
        "eval/accuracy_low": found.accuracy.low,
        "eval/accuracy_high": found.accuracy.high,
        "eval/calls": found.calls,
    }


def told(found: EvalReport) -> str:
    """One line for people."""
    low, high = found.accuracy.low, found.accuracy.high
    return (
        f"accuracy {found.accuracy.value:.3f} (95 % {low:.3f} to {high:.3f}) on {found.tasks} tasks, "
        f"{found.calls:.2f} calls an episode, {found.truncated:.1%} truncated, {found.errors:.1%} failed"
    )


__all__ = ["Exam", "metrics", "told"]
