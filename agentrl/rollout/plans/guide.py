"""Guide-GRPO (2506.13923): where all of a group fail, as many try again with a hint in the prompt.

The hinted answers are trained as if nobody had helped: their ratio is
pi_theta(y_t | x, y_<t) / pi_old(y_t | x, hint, y_<t), clipped (ratio mode `behaviour`), and hinted and
unhinted answers share one baseline.
"""

from __future__ import annotations

from typing import Literal

from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.openings import asking
from agentrl.rollout.plans.stage import Experts, Stage, in_order
from agentrl.seeds import derive
from agentrl.trajectory import Group
from agentrl.types import Task

TEMPLATE = "\n\nHint: {hint}"
MEASURED = "guide/hinted"
"""Measurement of hinted trajectories alone: how they scored."""


class Guide:
    """`group_size` siblings; `group_size` more under a hint when the first all failed."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        hint: Literal["metadata", "expert"] = "metadata",
        key: str = "hint",
        template: str | None = None,
        component: str = "env",
        expert: Experts | None = None,
    ) -> None:
        """Make the plan.

        Args:
            group_size: k, siblings without a hint and, where it comes to that, with one.
            hint: from the task's metadata, or the expert's turns before its answer. A task with
                neither keeps its k siblings.
            key: of the metadata; its text must not give the answer away.
            template: what is put behind the question; `{hint}` stands for the hint. Null for a
                paragraph of its own.
            component: of the reward, that decides what failed: below 1.
            expert: the environment's.

        Raises UserError when the environment has no expert to ask or the template no place.
        """
        if hint == "expert" and expert is None:
            raise UserError(
                "rollout.plan.hint=expert needs an env with an expert; put hints into the tasks' "
                "metadata and set hint=metadata"
            )
        template = TEMPLATE if template is None else template
        if "{hint}" not in template:
            raise UserError("rollout.plan.template has no {hint} in it")
        self._k, self._source, self._key = group_size, hint, key
        self._template, self._component, self._expert = template, component, expert

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """k or 2 k trajectories in sibling order."""
        stage = Stage(task, services, ctx)
        played = await in_order([stage.run(i) for i in range(self._k)])
        scores = await stage.scores([t for t in played if t.error is None], self._component)
        hint = self._hint(task, ctx)
        if not scores or max(scores) >= 1 or hint is None:
            return Group(task, tuple(played), ctx.step)
        opening = asking(self._template.replace("{hint}", hint), ratio_mode="behaviour")
        more = range(self._k, 2 * self._k)
        helped = await in_order([stage.run(i, opening) for i in more])
        found = await stage.scores(helped, self._component)
        told = [
            t if t.error else t.scored(**{MEASURED: score})
            for t, score in zip(helped, found, strict=True)
        ]
        return Group(task, (*played, *told), ctx.step)

    def _hint(self, task: Task, ctx: Ctx) -> str | None:
        if self._source == "metadata" or self._expert is None:
            found = task.metadata.get(self._key)
            return found if isinstance(found, str) and found else None
        before = self._expert(task, derive(ctx.seed, "guide", task.id))[:-1]
        return "\n".join(turn.text for turn in before) or None


__all__ = ["Guide"]
