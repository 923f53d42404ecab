"""A bounded number of holders at once: the lowest rank first, then first come first served."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future, TimerHandle
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from heapq import heappop, heappush
from types import TracebackType
from typing import Protocol

from agentrl.context import LimiterStatistics, Unlimited

STALL_S = 300.0
"""After so long without a place coming free, those who hold one are named."""
NAMED = 5
"""Holders that a warning names."""

_log = logging.getLogger(__name__)


def no_holders() -> Iterable[str]:
    """For slots that do not know who holds them."""
    return ()


class Slots:
    """Implements `agentrl.context.Limiter`; its capacity may change while it is used.

    Seconds are those of the event loop's clock.
    """

    __slots__ = (
        "_admitted", "_arrivals", "_borrowed", "_capacity", "_holders", "_last", "_longest_s", "_name",
        "_queue", "_stall_s", "_total_s", "_waiting", "_watch",
    )  # fmt: skip

    def __init__(
        self,
        capacity: int,
        *,
        name: str = "slot",
        holders: Callable[[], Iterable[str]] = no_holders,
        stall_s: float = STALL_S,
    ) -> None:
        """holders: names who holds a place, the longest first, for the warning of a stall."""
        if capacity < 1:
            raise ValueError(f"a limiter needs at least one slot, not {capacity}")
        self._capacity, self._borrowed = capacity, 0
        self._queue: list[tuple[int, int, Future[None]]] = []
        """A heap by rank and order of arrival."""
        self._arrivals = self._waiting = 0
        self._admitted, self._total_s, self._longest_s = 0, 0.0, 0.0
        self._name, self._holders, self._stall_s = name, holders, stall_s
        self._last = 0.0
        """When a place was last handed over, or the queue began."""
        self._watch: TimerHandle | None = None

    def slot(self, rank: int = 0) -> AbstractAsyncContextManager[float]:
        """Hold one place; entering gives the seconds waited. Lower ranks go first."""
        return Held(self, rank)

    @property
    def capacity(self) -> int:
        """Places there are."""
        return self._capacity

    @property
    def borrowed(self) -> int:
        """Places taken."""
        return self._borrowed

    @property
    def waiting(self) -> int:
        """Those who wait for one."""
        return self._waiting

    def resize(self, capacity: int) -> None:
        """Change the number of places; who holds one keeps it."""
        self._capacity = capacity
        self._admit()

    async def acquire(self, rank: int = 0) -> float:
        """Wait for a place; the seconds that took. Give it back by `release`."""
        self._admitted += 1
        if self._borrowed < self._capacity and not self._queue:
            self._borrowed += 1
            return 0.0
        loop = asyncio.get_running_loop()
        asked = loop.time()
        place: Future[None] = loop.create_future()
        self._last = asked if not self._queue else self._last
        self._arrivals += 1
        heappush(self._queue, (rank, self._arrivals, place))
        self._waiting += 1
        if self._watch is None:
            self._watch = loop.call_later(self._stall_s, self._look)
        try:
            await place
        except asyncio.CancelledError:
            self._admitted -= 1
            if place.done() and not place.cancelled():
                self.release()  # it was handed over just before
            else:
                self._waiting -= 1
            raise
        waited_s = loop.time() - asked
        self._total_s += waited_s
        self._longest_s = max(self._longest_s, waited_s)
        return waited_s

    def release(self) -> None:
        """Give a place back."""
        self._borrowed -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._borrowed < self._capacity:
            _, _, place = heappop(self._queue)
            if not place.done():
                place.set_result(None)
                self._waiting -= 1
                self._borrowed += 1
                self._last = place.get_loop().time()

    def _look(self) -> None:
        """Warn when nothing has moved for `stall_s`; look again later while somebody waits."""
        self._watch = None
        if not self._queue:
            return
        loop = asyncio.get_running_loop()
        left_s = self._last + self._stall_s - loop.time()
        if left_s <= 0:
            self._warn()
            left_s = self._stall_s
        self._watch = loop.call_later(left_s, self._look)

    def _warn(self) -> None:
        named = [name for name, _ in zip(self._holders(), range(NAMED), strict=False)]
        _log.warning(
            "%d wait for a %s and none of %d came free for %g s; held by: %s",
            self.waiting, self._name, self._capacity, self._stall_s, "; ".join(named) or "unknown",
        )  # fmt: skip

    def statistics(self) -> LimiterStatistics:
        """Counts at this moment."""
        return LimiterStatistics(
            capacity=self._capacity,
            borrowed=self._borrowed,
            waiting=self.waiting,
            total_wait_s=self._total_s,
            admitted=self._admitted - self.waiting,
            longest_wait_s=self._longest_s,
        )


class EngineLimiter(Protocol):
    """A Limiter that lets the lowest rank in first."""

    def slot(self, rank: int = 0) -> AbstractAsyncContextManager[float]:
        """Hold one place; entering gives the seconds waited."""
        ...

    def statistics(self) -> LimiterStatistics:
        """Counts for metrics."""
        ...


class Unranked:
    """An EngineLimiter that admits everyone, for single episodes."""

    def slot(self, rank: int = 0) -> AbstractAsyncContextManager[float]:
        """Enter at once."""
        return nullcontext(0.0)

    def statistics(self) -> LimiterStatistics:
        """Always idle."""
        return Unlimited().statistics()


class Places(Protocol):
    """What can be held a place of."""

    async def acquire(self, rank: int = 0) -> float:
        """Wait for a place; the seconds waited."""
        ...

    def release(self) -> None:
        """Give a place back."""
        ...


class Held(AbstractAsyncContextManager[float]):
    """One place, held from entering to leaving."""

    __slots__ = ("_rank", "_slots")

    def __init__(self, slots: Places, rank: int) -> None:
        self._slots, self._rank = slots, rank

    async def __aenter__(self) -> float:
        return await self._slots.acquire(self._rank)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._slots.release()


__all__ = ["EngineLimiter", "Held", "Slots", "Unranked"]
