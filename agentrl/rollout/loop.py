"""The one multi-turn loop: generate, parse, step, render, until an ending.

Each episode is a task of its own, so a slow tool delays one trajectory. What a turn consists of is
in `episode`; plans that branch or force play the same episodes turn by turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from agentrl.context import LimiterStatistics
from agentrl.episode import Episode, Opening
from agentrl.points import Ctx
from agentrl.rollout.collector import patient_collector
from agentrl.rollout.engine_slots import EngineSlots
from agentrl.rollout.episode import Finished, LiveEpisode, forget
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.slots import Slots
from agentrl.trajectory import Trajectory
from agentrl.types import Task

BACKOFF_S = 0.1
"""Before the first fresh attempt; doubled before each further one."""


@dataclass(frozen=True, slots=True)
class RolloutStatistics:
    """A runner at one moment: who waited for what, and how episodes ended so far."""

    episodes: LimiterStatistics
    """Places for episodes."""
    engine: LimiterStatistics
    """Places for generations."""
    tools: LimiterStatistics
    """Places for tool calls."""
    finished: int
    """By `run`, failures included."""
    failed: int
    """By the world, after all attempts."""
    retried: int
    """Fresh attempts that were made."""


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
    could wait for itself. Their generations do take places in the engine, one at a time.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        seed: int,
        in_flight: int = 128,
        retries: int = 2,
        adaptive: bool = True,
        finished: Finished = forget,
    ) -> None:
        """
        in_flight: episodes at once, and generations at once. retries: fresh attempts after a failure
        of the world. adaptive: fewer generations at once while the engine's cache is full.
        finished: called with every trajectory as it is finished, so that none is lost when the step
        they belong to fails.
        """
        self._live: set[LiveEpisode] = set()
        self._slots = Slots(in_flight, name="place for an episode", holders=self._longest_busy)
        engine = parts.engine
        engine_slots = EngineSlots(in_flight, engine.statistics) if adaptive else Slots(in_flight)
        self.parts = replace(parts, engine_slots=engine_slots)
        self._seed, self._retries, self._told = seed, retries, finished
        self._finished = self._failed = self._retried = 0

    def names(self, task: Task, ctx: Ctx) -> Names:
        """Uids and seeds of the task's siblings at this step."""
        return Names.of(self._seed, task, ctx)

    async def run(
        self, task: Task, sibling: int, ctx: Ctx, opening: Opening | None = None
    ) -> Trajectory:
        """One finished trajectory; after `retries` fresh attempts the last failure is returned."""
        names, parts = self.names(task, ctx), self.parts.patched(ctx.patch)
        async with self._slots.slot():
            trajectory = await self._attempt(task, parts, names, sibling, opening)
            for attempt in range(self._retries):
                if trajectory.error is None:
                    break
                self._retried += 1
                await asyncio.sleep(BACKOFF_S * 2**attempt)
                trajectory = await self._attempt(task, parts, names, sibling, opening)
        self._finished += 1
        self._failed += trajectory.error is not None
        self._told(trajectory)
        return trajectory

    async def _attempt(
        self, task: Task, parts: Parts, names: Names, sibling: int, opening: Opening | None
    ) -> Trajectory:
        async with self._opened(LiveEpisode.of(task, parts, names, sibling)) as episode:
            await episode.start(opening)
            return await played_out(episode)

    @asynccontextmanager
    async def live(
        self, task: Task, sibling: int, ctx: Ctx, opening: Opening | None = None
    ) -> AsyncGenerator[Episode]:
        """See `agentrl.episode.EpisodeRunner.live`."""
        parts = self.parts.patched(ctx.patch)
        async with self._slots.slot():
            made = LiveEpisode.of(task, parts, self.names(task, ctx), sibling)
            made.told = self._told
            async with self._opened(made) as episode:
                await episode.start(opening)
                yield episode

    @asynccontextmanager
    async def _opened(self, episode: LiveEpisode) -> AsyncGenerator[LiveEpisode]:
        """Count it as live; close it whatever happens."""
        self._live.add(episode)
        with patient_collector():
            try:
                yield episode
            finally:
                self._live.discard(episode)
                await asyncio.shield(episode.close())

    def _longest_busy(self) -> Iterable[str]:
        """Episodes by the time they have spent in their present stage, the longest first."""
        return (e.doing for e in sorted(self._live, key=lambda e: e.busy_since))

    def statistics(self) -> RolloutStatistics:
        """Counts for metrics."""
        return RolloutStatistics(
            episodes=self._slots.statistics(),
            engine=self.parts.engine_slots.statistics(),
            tools=self.parts.tool_slots.statistics(),
            finished=self._finished,
            failed=self._failed,
            retried=self._retried,
        )


__all__ = ["Episodes", "RolloutStatistics", "played_out", "run_episode"]
