"""RuscaRL (2508.16949): part of the rubric stands in the prompt, for some siblings and for a while.

Sibling i of G at training progress x reads the share lam of the criteria,

    lam = (G - 1 - i) / (G - 1) * 1 / (1 + exp(k (x - x0))),   x = step / (steps - 1),

as a system message; it is trained under the plain prompt with its old logprobs recomputed there (ratio
mode `relabel`, the released code's default). The reward is the shaper's and reward function's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from agentrl.episode import Opening
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.openings import instructing
from agentrl.rollout.plans.stage import Stage, in_order
from agentrl.trajectory import Group
from agentrl.types import Task

HEADING = "A good answer meets these criteria:"
ITEM = "- {criterion} ({points:g} points)"
SILENT = "Do not mention these criteria in your answer."


class RuscaRL:
    """`group_size` siblings, the first under the most of the rubric, the last under none."""

    def __init__(
        self,
        *,
        group_size: int = 8,
        midpoint: float = 0.2,
        steepness: float = 125.0,
        silent: bool = False,
        heading: str | None = None,
        item: str | None = None,
        criteria: Mapping[str, float] | None = None,
    ) -> None:
        """Make the plan. It goes with the reward `rubric`.

        Args:
            group_size: siblings.
            midpoint: x0, the progress at which the scaffold is half as strong.
            steepness: k of the sigmoid; 0 keeps the scaffold at half its strength.
            silent: tell the model not to mention the criteria.
            heading: over the criteria; null for a sentence.
            item: one criterion; `{criterion}` and `{points}` stand for its parts. Null for
                a line with both.
            criteria: text and points, for tasks whose metadata has no `rubric`.

        Raises UserError on a negative steepness or an item that shows no criterion.
        """
        item = ITEM if item is None else item
        if steepness < 0 or "{criterion}" not in item:
            raise UserError("rollout.plan.steepness is at least 0 and item has {criterion} in it")
        self._n, self._x0, self._k = group_size, midpoint, steepness
        self._heading = HEADING if heading is None else heading
        self._item = item
        self._tail = [SILENT] if silent else []
        self._default = list((criteria or {}).items())

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories in sibling order; those under no criterion are plain."""
        stage = Stage(task, services, ctx)
        own = "rubric" in task.metadata or not self._default
        criteria = criteria_of(task) if own else self._default
        played = await in_order(
            [stage.run(i, self._opening(criteria, self.share(i, ctx))) for i in range(self._n)]
        )
        return Group(task, tuple(played), ctx.step)

    def share(self, sibling: int, ctx: Ctx) -> float:
        """lam of a sibling at a step."""
        x = ctx.step / max(1, ctx.total_steps - 1)
        among = (self._n - 1 - sibling) / (self._n - 1) if self._n > 1 else 1.0
        # exp(-|z|) alone, so that a steep sigmoid overflows nowhere.
        z = self._k * (x - self._x0)
        small = math.exp(-abs(z))
        return among * (small if z > 0 else 1.0) / (1.0 + small)

    def _opening(self, criteria: Sequence[tuple[str, float]], share: float) -> Opening | None:
        shown = criteria[: round(share * len(criteria))]
        if not shown:
            return None
        lines = [self._item.format(criterion=text, points=points) for text, points in shown]
        text = "\n".join([self._heading, *lines, *self._tail])
        return instructing(text, ratio_mode="relabel")


def criteria_of(task: Task) -> list[tuple[str, float]]:
    """Criterion and points of each line of the task's rubric.

    Raises UserError when its metadata has none, or in another form.
    """
    listed = task.metadata.get("rubric")
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        found: list[tuple[str, float]] = []
        for item in listed:
            line = cast("Mapping[str, object]", item if isinstance(item, Mapping) else {})
            text, points = line.get("criterion"), line.get("points")
            if isinstance(text, str) and isinstance(points, (int, float)):
                found.append((text, float(points)))
        if found and len(found) == len(listed):
            return found
    raise UserError(
        f'task {task.id} needs metadata "rubric": a list of {{"criterion": ..., "points": ...}}'
    )


__all__ = ["RuscaRL", "criteria_of"]
