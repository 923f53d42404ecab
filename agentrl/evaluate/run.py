"""Playing a set of tasks and keeping every trajectory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from agentrl.points import Ctx, RolloutPlan, Services
from agentrl.trajectory import Group
from agentrl.types import Task

Arrived = Callable[[Group], None]
"""Called with each finished group, in order of arrival."""


async def play(
    tasks: Sequence[Task],
    plan: RolloutPlan,
    services: Services,
    ctx: Ctx,
    arrived: Arrived,
    drawn: Counter[str] | None = None,
) -> list[Group]:
    """One group per task, in the order of `tasks`; episodes in flight are bounded by the runner.

    `drawn` counts the tasks of earlier rounds of the step and is brought up to date: a task that
    comes again is sampled anew (`Ctx.repeat`).
    """
    drawn = Counter() if drawn is None else drawn

    async def one(task: Task, repeat: int) -> Group:
        group = await plan.collect(task, services, replace(ctx, repeat=repeat))
        arrived(group)
        return group

    repeats: list[int] = []
    for task in tasks:
        repeats.append(drawn[task.id])
        drawn[task.id] += 1
    async with asyncio.TaskGroup() as running:
        started = [
            running.create_task(one(task, repeat))
            for task, repeat in zip(tasks, repeats, strict=True)
        ]
    return [task.result() for task in started]
