"""Rollout plans: how one task becomes a group."""

from __future__ import annotations

import asyncio

from agentrl.points import Ctx, Services
from agentrl.trajectory import Group
from agentrl.types import Task


class Sample:
    """Independent siblings of one task, side by side: the plan of GRPO and its kin."""

    def __init__(self, *, group_size: int = 8) -> None:
        self._group_size = group_size

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories in sibling order, whatever the order of arrival."""
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(services.episodes.run(task, sibling, ctx))
                for sibling in range(self._group_size)
            ]
        return Group(task, tuple(t.result() for t in running), ctx.step)
