"""The one multi-turn loop: generate, parse, step, render, until an ending.

Each episode is a task of its own, so a slow tool delays one trajectory. What a turn consists of is
in `episode`; plans that branch or force play the same episodes turn by turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agentrl.points import Ctx, Episode, Opening
from agentrl.rollout.episode import LiveEpisode
from agentrl.rollout.limits import Slots
from agentrl.rollout.parts import Names, Parts
from agentrl.trajectory import Trajectory
from agentrl.types import Task


async def run_episode(
    task: Task,
    parts: Parts,
    names: Names,
    sibling: int = 0,
    *,
    opening: Opening | None = None,
    demo: bool = False,
) -> Trajectory:
    """One finished trajectory. The world's failures are in its `error`; `close` always runs.

    With `demo` what the engine writes is recorded as expert text.
    """
    episode = LiveEpisode.of(task, parts, names, sibling, demo=demo)
    try:
        await episode.start(opening)
        return await played_out(episode)
    finally:
        await asyncio.shield(episode.close())


async def played_out(episode: Episode) -> Trajectory:
    """Turn after turn to the end."""
    while episode.stop is None:
        if not episode.complete:
            await episode.write()
        if episode.complete:
            await episode.act()
    return episode.finish()


class Episodes:
    """Runs episodes for plans: names them, bounds how many are in flight, retries the world's faults.

    Branches take no place of their own: whoever branches holds one already, and waiting for more
    could wait for itself.
    """

    def __init__(self, parts: Parts, *, seed: int, in_flight: int = 128, retries: int = 2) -> None:
        self.parts = parts
        self._seed = seed
        self._slots = Slots(in_flight)
        self._retries = retries

    def names(self, task: Task, ctx: Ctx) -> Names:
        """Uids and seeds of the task's siblings at this step."""
        return Names.of(self._seed, task, ctx)

    async def run(
        self, task: Task, sibling: int, ctx: Ctx, opening: Opening | None = None
    ) -> Trajectory:
        """One finished trajectory; after `retries` fresh attempts the last failure is returned."""
        names, parts = self.names(task, ctx), self.parts.patched(ctx.patch)
        async with self._slots.slot():
            for attempt in range(self._retries):
                trajectory = await run_episode(task, parts, names, sibling, opening=opening)
                if trajectory.error is None:
                    return trajectory
                await asyncio.sleep(0.1 * 2**attempt)
            return await run_episode(task, parts, names, sibling, opening=opening)

    @asynccontextmanager
    async def live(
        self, task: Task, sibling: int, ctx: Ctx, opening: Opening | None = None
    ) -> AsyncGenerator[Episode]:
        """See `agentrl.points.EpisodeRunner.live`."""
        parts = self.parts.patched(ctx.patch)
        async with self._slots.slot():
            episode = LiveEpisode.of(task, parts, self.names(task, ctx), sibling)
            try:
                await episode.start(opening)
                yield episode
            finally:
                await asyncio.shield(episode.close())


__all__ = ["Episodes", "played_out", "run_episode"]
