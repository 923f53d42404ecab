"""RGR-GRPO (2511.12344): the best answer that still fails is refined, and joins the group.

The model writes again under a prompt that shows its answer and the rubric. What it writes is trained
under the plain prompt as foreign text: FORCED with probability 1, for the loss `shaped`, whose
f(p) = p / (p + 0.1) is LUFFY's.

Deviation: the prompt shows the whole rubric, not the unmet items alone; which items a judge holds
unmet is the reward's own business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.openings import asking
from agentrl.rollout.plans.rows import certain
from agentrl.rollout.plans.ruscarl import criteria_of
from agentrl.rollout.plans.stage import Stage, in_order, response_of
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

PROMPT = (
    "\n\nAn earlier answer:\n{answer}\n\nA good answer meets these criteria:\n{rubric}\n\n"
    "Find which of them the earlier answer misses, and write a better one."
)


class Rgr:
    """`group_size` siblings, the last one refined from the best failing of the others."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        component: str = "rubric",
        prompt: str | None = None,
        criteria: Mapping[str, float] | None = None,
    ) -> None:
        """Make the plan. It goes with the loss `shaped`.

        Args:
            group_size: all siblings; the last one is plain when none of the others fails.
            component: of the reward, that ranks answers; below 1 one fails.
            prompt: what is put behind the question; `{answer}` and `{rubric}` have their places.
                Null for one that shows both.
            criteria: text and points, for tasks whose metadata has no `rubric`.

        Raises UserError on a group of one or a prompt without the answer.
        """
        prompt = PROMPT if prompt is None else prompt
        if group_size < 2 or "{answer}" not in prompt:
            raise UserError(
                "rollout.plan rgr needs a group of two or more and {answer} in its prompt"
            )
        self._n, self._component, self._prompt = group_size, component, prompt
        self._default = list((criteria or {}).items())

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """Always `group_size` trajectories."""
        stage = Stage(task, services, ctx)
        played = await in_order([stage.run(i) for i in range(self._n - 1)])
        scores = await stage.scores(played, self._component)
        failing = [i for i, t in enumerate(played) if t.error is None and scores[i] < 1]
        if not failing:
            return Group(task, (*played, await stage.run(self._n - 1)), ctx.step)
        best = max(failing, key=lambda i: (scores[i], -i))
        text = self._text(task, response_of(played[best]))
        refined = await stage.run(self._n - 1, asking(text, ratio_mode="behaviour"))
        return Group(task, (*played, _foreign(refined)), ctx.step)

    def _text(self, task: Task, answer: str) -> str:
        criteria = self._default
        if "{rubric}" in self._prompt and ("rubric" in task.metadata or not criteria):
            criteria = criteria_of(task)
        rubric = "\n".join(f"- {text} ({points:g} points)" for text, points in criteria)
        return self._prompt.replace("{rubric}", rubric).replace("{answer}", answer)


def _foreign(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, rows=tuple(certain(row) for row in trajectory.rows))


__all__ = ["PROMPT", "Rgr"]
