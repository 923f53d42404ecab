"""Admission to a pool: so many leases at a time, the others wait in order, but not for ever."""

from __future__ import annotations

import asyncio
import time

from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import PoolStatistics
from agentrl_sandbox.counts import Counts


class Slots:
    """`most` places; who waits longer than `wait_s` is refused and counted."""

    def __init__(self, most: int, wait_s: float, counts: Counts) -> None:
        if most < 1 or wait_s <= 0:
            raise UserError(f"max_sessions={most} and wait_s={wait_s} must be positive")
        self._free = asyncio.Semaphore(most)
        self._most = most
        self._wait_s = wait_s
        self._counts = counts
        self._waiting = 0

    async def take(self) -> float:
        """Wait for a place; the seconds it took. Raises SandboxError when none comes free in time."""
        began = time.monotonic()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError as error:
            self._counts.refused += 1
            raise SandboxError(
                f"no sandbox came free within {self._wait_s:g} s: all {self._most} sessions are "
                "taken; raise max_sessions or run fewer episodes at once"
            ) from error
        finally:
            self._waiting -= 1
        return time.monotonic() - began

    def give_back(self) -> None:
        """Leave a place that was taken."""
        self._free.release()

    def statistics(self, *, open_sessions: int, copies: int = 0, spares: int = 0) -> PoolStatistics:
        """The pool's counts as the contract wants them."""
        counts = self._counts
        return PoolStatistics(
            open_sessions=open_sessions,
            waiting=self._waiting,
            runs=counts.runs,
            restarts=counts.restarts,
            spares=spares,
            refused=counts.refused,
            queue_s=counts.queue_s,
            run_s=counts.run_s,
            timeouts=counts.timeouts,
            ooms=counts.ooms,
            expired=counts.expired,
            copies=copies,
            capacity=self._most,
        )
