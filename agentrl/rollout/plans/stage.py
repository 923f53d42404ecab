"""What plans that hint, force, reopen and mix share: one task's stage, and what is read off answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, TypeVar

from agentrl.episode import Episode, Opening
from agentrl.errors import UserError, WorldFault
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.siblings import ATTEMPTS, played_again
from agentrl.seeds import derive
from agentrl.trajectory import StopReason, Trajectory
from agentrl.transcript import Int32Array
from agentrl.types import Task

T = TypeVar("T")
TRIES = ATTEMPTS
"""Attempts at a branch before its failure is accepted."""
LOOK_S = 120.0
"""Deadline of an early look at one trajectory's rewards."""


class ExpertTurn(NamedTuple):
    """One turn that the environment's expert would write."""

    text: str
    token_ids: Int32Array
    """As the model would write it, the id that ends the turn included where one does."""


Experts = Callable[[Task, int], Sequence[ExpertTurn]]
"""Task and seed -> the expert's turns, in order."""

Play = Callable[[Episode], Awaitable[Trajectory]]
"""How a plan plays one live episode to its end."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One task at one step, with what plays it."""

    task: Task
    services: Services
    ctx: Ctx

    async def play(self, sibling: int, play: Play, opening: Opening | None = None) -> Trajectory:
        """A sibling played by the plan; one that the world failed is played again."""

        async def once(number: int) -> Trajectory:
            episodes = self.services.episodes
            async with episodes.live(self.task, number, self.ctx, opening) as episode:
                return await play(episode)

        return await played_again(once, sibling)

    async def run(self, sibling: int, opening: Opening | None = None) -> Trajectory:
        """A sibling played by the loop, with the loop's own retries."""
        return await self.services.episodes.run(self.task, sibling, self.ctx, opening)

    def rng(self, plan: str, sibling: int = 0) -> Random:
        """A plan's own draws for one sibling: by name and place, never by arrival."""
        ctx = self.ctx
        return Random(derive(ctx.seed, plan, ctx.step, self.task.id, ctx.repeat, sibling))

    async def score(self, trajectory: Trajectory, component: str = "env") -> float:
        """An early look at one reward component; the trajectory itself stays unscored.

        0.0 for what the world failed or a judge could not grade in time. Raises UserError when
        no configured reward records the component.
        """
        if trajectory.error is not None:
            return 0.0
        if component in trajectory.rewards:
            return trajectory.rewards[component]
        try:
            async with asyncio.timeout(LOOK_S):
                for reward in self.services.rewards:
                    found = await reward(trajectory, self.services)
                    if component in found:
                        return found[component]
        except (WorldFault, TimeoutError):
            return 0.0
        raise UserError(
            f"rollout.plan reads the reward component {component!r}, which nothing records; add the "
            "reward function that does to algo.rewards"
        )

    async def scores(
        self, trajectories: Sequence[Trajectory], component: str = "env"
    ) -> list[float]:
        """Early looks side by side, in order. Raises as `score` does."""
        try:
            return await in_order([self.score(t, component) for t in trajectories])
        except* UserError as several:
            raise several.exceptions[0] from None


async def in_order(waiting: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once, results in the order given whatever the order of arrival."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one) for one in waiting]
    return [task.result() for task in running]


async def played_within(episode: Episode, tokens: int | None) -> Trajectory:
    """Turn after turn to the end, or until `tokens` were sampled or forced.

    The cap counts what is under the mask; hitting it ends the episode with MAX_TOKENS.
    """
    while episode.stop is None:
        if not episode.complete:
            left = None if tokens is None else tokens - episode.row.n_sampled
            if left is not None and left <= 0:
                return episode.finish(StopReason.MAX_TOKENS)
            await episode.write(max_tokens=left)
        if episode.complete:
            await episode.act()
    return episode.finish()


def response_of(trajectory: Trajectory) -> str:
    """What was written and answered after the prompt, one message below the other."""
    said = [i for i, m in enumerate(trajectory.messages) if m.role == "assistant"]
    own = said[max(0, len(said) - trajectory.n_turns) :] if trajectory.n_turns else []
    if not own:
        return ""
    return "\n".join(m.content for m in trajectory.messages[own[0] :])


__all__ = [
    "LOOK_S",
    "TRIES",
    "ExpertTurn",
    "Experts",
    "Play",
    "Stage",
    "in_order",
    "played_within",
    "response_of",
]
