"""What plans share: siblings side by side in a fixed order, and members played again after a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from agentrl.episode import Episode, Opening
from agentrl.points import Ctx, Services
from agentrl.trajectory import Trajectory
from agentrl.types import Message, Task

Play = Callable[[int], Awaitable[Trajectory]]
"""A sibling number -> its trajectory; one that the world failed has its `error` set."""
ATTEMPTS = 3
"""Times a sibling is played before its failure is accepted."""
WAIT_S = 0.1
"""Before the second attempt; twice as long before the third."""


async def played_again(play: Play, sibling: int) -> Trajectory:
    """The sibling's trajectory; after `ATTEMPTS` attempts the last failure."""
    for attempt in range(ATTEMPTS - 1):
        trajectory = await play(sibling)
        if trajectory.error is None:
            return trajectory
        await asyncio.sleep(WAIT_S * 2**attempt)
    return await play(sibling)


async def side_by_side(siblings: Iterable[int], play: Play) -> tuple[Trajectory, ...]:
    """All at once, given back in the order of `siblings` whatever the order of arrival."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(played_again(play, sibling)) for sibling in siblings]
    return tuple(task.result() for task in running)


async def sampled(
    task: Task,
    services: Services,
    ctx: Ctx,
    siblings: Iterable[int],
    opening: Opening | None = None,
) -> tuple[Trajectory, ...]:
    """Independent episodes of one task, in sibling order; the runner plays failed ones again."""
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(services.episodes.run(task, sibling, ctx, opening))
            for sibling in siblings
        ]
    return tuple(task.result() for task in running)


def instructed(instruction: str) -> Opening:
    """Start under a system message that says `instruction` first, and train under it as well."""

    def rewrite(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        first = messages[0]
        if first.role == "system":
            return (Message("system", f"{instruction}\n\n{first.content}"), *messages[1:])
        return (Message("system", instruction), *messages)

    return Opening(rewrite)


def appended(text: str) -> Opening:
    """Start with `text` behind the last of the environment's messages, and train under it."""

    def rewrite(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        last = messages[-1]
        return (*messages[:-1], replace(last, content=f"{last.content}\n\n{text}"))

    return Opening(rewrite)


async def written_by(episode: Episode, by: str | None) -> Trajectory:
    """An episode played to its end by a partner; None is the policy."""
    while episode.stop is None:
        if not episode.complete:
            await episode.write(by=by)
        if episode.complete:
            await episode.act()
    return episode.finish()


__all__ = [
    "ATTEMPTS",
    "Play",
    "appended",
    "instructed",
    "played_again",
    "sampled",
    "side_by_side",
    "written_by",
]
