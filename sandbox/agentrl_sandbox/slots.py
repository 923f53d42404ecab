"""Admission to a pool: so many leases at a time, the others wait in order, but not for ever."""

from __future__ import annotations

import asyncio
import time

from agentrl.errors import SandboxError
from agentrl_sandbox.tally import Tally


class Slots:
    """`count` places; who waits longer than `max_wait_s` is refused and counted."""

    def __init__(self, count: int, max_wait_s: float, tally: Tally) -> None:
        self._free = asyncio.Semaphore(count)
        self._max_wait_s = max_wait_s
        self._tally = tally

    async def take(self) -> None:
        """Wait for a place. Raises SandboxError when none came free in time."""
        began = time.monotonic()
        self._tally.waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._free.acquire()
        except TimeoutError as error:
            self._tally.refused += 1
            raise SandboxError(
                f"no sandbox came free within {self._max_wait_s:g} s: allow more max_sessions, "
                "or fewer episodes at a time"
            ) from error
        finally:
            self._tally.waiting -= 1
            self._tally.queue_s += time.monotonic() - began

    def give_back(self) -> None:
        """Leave a place that was taken."""
        self._free.release()
