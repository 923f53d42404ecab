"""What a conversation needs, opened: the model, the tools, the sandbox, the tasks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from agentrl.config import RunConfig
from agentrl.env import Env
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Parts
from agentrl.tool import Tool


@dataclass(frozen=True, slots=True)
class Stage:
    """An open set of parts."""

    words: Sequence[str]
    """Of the command line."""
    config: RunConfig
    parts: Parts
    runner: Episodes
    env: Env
    """An instance that is not played: for its expert and its tools."""

    @property
    def tools(self) -> Sequence[Tool]:
        """What the model may call."""
        return self.env.tools

    @property
    def isolation(self) -> str | None:
        """What stands between the model's code and this machine; None where no code is run."""
        return None if self.parts.pool is None else self.parts.pool.isolation


@asynccontextmanager
async def opened(
    words: Sequence[str], config: RunConfig, parts: Parts, env: Env
) -> AsyncGenerator[Stage]:
    """Open the parts; everything is closed at the end."""
    from agentrl.train.loop import open_parts

    async with AsyncExitStack() as stack:
        await open_parts(stack, parts.engine, parts.pool, parts.partners)
        yield Stage(words, config, parts, Episodes(parts, seed=config.seed, in_flight=1), env)


__all__ = ["Stage", "opened"]
