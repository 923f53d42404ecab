"""How many requests an engine is given at once, adapted to the room its cache has.

An engine that runs out of room for keys and values sets requests back and computes them twice. The
limiter keeps what does not fit in its own queue instead: it shrinks by a factor when requests were
set back, falls to what really runs when they wait inside a full engine, and grows by a step while
there is room and somebody waits (additive increase, multiplicative decrease; Chiu and Jain 1989).

The episode that began first goes first, so that those under way finish, their prefixes still in the
engine's cache, before others begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from agentrl.context import LimiterStatistics
from agentrl.engine.base import EngineStatistics
from agentrl.rollout.slots import Held, Slots

FULL = 0.95
"""Share of the cache from which on it counts as full."""
ROOMY = 0.85
"""Share of the cache up to which more requests are given."""
SHRINK = 0.75
LOOK_S = 0.25
"""Seconds between two looks at the engine."""


class EngineSlots:
    """Implements `agentrl.context.Limiter`."""

    __slots__ = (
        "_least",
        "_looked",
        "_most",
        "_preemptions",
        "_read",
        "_slots",
        "_started",
        "_step",
    )

    def __init__(self, most: int, read: Callable[[], EngineStatistics], *, least: int = 1) -> None:
        """most, least: bounds of the capacity; it starts at `most`. read: the engine's statistics."""
        self._slots = Slots(most, name="place in the engine")
        self._most, self._least, self._read = most, min(least, most), read
        self._step = max(1, most // 32)
        self._looked: float | None = None
        self._preemptions = 0

    def slot(self, rank: int = 0) -> AbstractAsyncContextManager[float]:
        """Hold one place; entering gives the seconds waited. Lower ranks go first."""
        return Held(self, rank)

    async def acquire(self, rank: int = 0) -> float:
        """Wait for a place, with the capacity that the engine's cache allows."""
        self._look()
        return await self._slots.acquire(rank)

    def release(self) -> None:
        """Give a place back."""
        self._look()
        self._slots.release()

    def statistics(self) -> LimiterStatistics:
        """Counts at this moment."""
        return self._slots.statistics()

    def _look(self) -> None:
        """Read the engine, at most once in `LOOK_S`, and adapt."""
        now = asyncio.get_running_loop().time()
        if self._looked is not None and now - self._looked < LOOK_S:
            return
        self._looked = now
        found = self._read()
        set_back = found.preemptions - self._preemptions
        self._preemptions = found.preemptions
        wanted = self._wanted(found, set_back)
        wanted = max(self._least, min(self._most, wanted))
        if wanted != self._slots.capacity:
            self._slots.resize(wanted)

    def _wanted(self, found: EngineStatistics, set_back: int) -> int:
        """The capacity that suits what was found; the present one when nothing is known."""
        capacity = self._slots.capacity
        if set_back > 0:
            return int(SHRINK * min(capacity, found.running))
        if found.kv_used is None:
            return capacity
        if found.waiting and found.kv_used >= FULL:
            return min(capacity, found.running + self._step)
        if not found.waiting and found.kv_used < ROOMY and self._slots.waiting:
            return capacity + self._step
        return capacity


__all__ = ["EngineSlots"]
