"""How an episode meets the world's failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from agentrl.errors import AgentRLError, ModelFault, WorldFault

T = TypeVar("T")


class EnvFault(WorldFault, RuntimeError):
    """An environment raised something of its own; the trajectory cannot be trusted."""


def told(error: Exception) -> str:
    """A failure as a trajectory records it."""
    return f"{type(error).__name__}: {error}"


async def within(seconds: float, closing: Awaitable[None]) -> None:
    """Await a release; the verdict is in, so the world's failures no longer matter."""
    with suppress(TimeoutError, WorldFault):
        async with asyncio.timeout(seconds):
            await closing


async def of_env(call: Awaitable[T]) -> T:
    """Await a call into the environment; what it raises of its own becomes an EnvFault."""
    try:
        return await call
    except AgentRLError as error:
        if not isinstance(error, ModelFault):
            raise
        raise EnvFault(f"the environment let {type(error).__name__} pass: {error}") from error
    except Exception as error:
        raise EnvFault(f"the environment raised {type(error).__name__}: {error}") from error


__all__ = ["EnvFault", "of_env", "told", "within"]
