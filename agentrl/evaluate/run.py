"""Playing a set of tasks and keeping every trajectory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agentrl.points import Ctx, RolloutPlan, Services
from agentrl.trajectory import Group
from agentrl.types import Task

Arrived = Callable[[Group], None]
"""Called with each finished group, in order of arrival."""


async def play(
    tasks: Sequence[Task], plan: RolloutPlan, services: Services, ctx: Ctx, arrived: Arrived
) -> list[Group]:
    """One group per task, in the order of `tasks`; episodes in flight are bounded by the runner."""

    async def one(task: Task) -> Group:
        group = await plan.collect(task, services, ctx)
        arrived(group)
        return group

    async with asyncio.TaskGroup() as running:
        started = [running.create_task(one(task)) for task in tasks]
    return [task.result() for task in started]
