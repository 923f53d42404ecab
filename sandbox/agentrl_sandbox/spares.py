"""Interpreters that stand ready, so that a lease does not wait for a fork."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from agentrl.errors import SandboxError, UserError
from agentrl_sandbox.child import Child

_log = logging.getLogger("agentrl.sandbox")
_REAP_S = 5.0
_PATIENCE_S = 0.002
_BACKOFF_S = (0.1, 5.0)


class Spares:
    """Keeps up to `wanted` confined children that have run nothing yet.

    `spawn` makes one; while `busy()` the refill waits, so that it does not take processors from
    code whose clock is running.
    """

    def __init__(
        self, wanted: int, spawn: Callable[[], Awaitable[Child]], busy: Callable[[], bool]
    ) -> None:
        self._wanted = wanted
        self._spawn = spawn
        self._busy = busy
        self._ready: deque[Child] = deque()
        self._short = asyncio.Event()

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._ready)

    def take(self) -> Child | None:
        """A living spare that nobody has used, and an order for another one; None: none is left."""
        self._short.set()
        while self._ready:
            child = self._ready.popleft()
            if not child.has_ended():
                return child
            child.forget()
        return None

    async def refill(self) -> None:
        """Make up for what was taken, for as long as this is not cancelled."""
        self._short.set()
        pause_s = _BACKOFF_S[0]
        while True:
            await self._short.wait()
            if len(self._ready) >= self._wanted:
                self._short.clear()
            elif self._busy():
                await asyncio.sleep(_PATIENCE_S)
            else:
                try:
                    self._ready.append(await self._spawn())
                    pause_s = _BACKOFF_S[0]
                except (SandboxError, UserError) as error:
                    # Whoever leases meanwhile meets the same error and can report it.
                    _log.warning("no spare interpreter could be made: %s", error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _BACKOFF_S[1])

    async def close(self) -> None:
        """End them all."""
        async with asyncio.TaskGroup() as group:
            while self._ready:
                group.create_task(self._ready.popleft().close(_REAP_S))
