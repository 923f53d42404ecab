"""Leases held over HTTP: the state that SandboxFusion's schema has no word for.

    GET    /agentrl                          what this server is: version, isolation, counts
    PUT    /agentrl/sessions/{id}            lease an interpreter; the client invents the id
    POST   /agentrl/sessions/{id}/run        {"run": n, "code": ..., "timeout_s": ...} -> ExecResult
    POST   /agentrl/sessions/{id}/reset
    DELETE /agentrl/sessions/{id}
    POST   /agentrl/run                      one shot, in an interpreter of its own

Runs of a session are numbered by the client, so that one whose answer was lost can be asked for
again and is not run twice. A session that nobody used for `idle_s` is closed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, Sandbox, SandboxPool
from agentrl.serve.body import BadRequest

MIN_ID, MAX_ID = 16, 64
_LOOK_S = 5.0


@dataclass(eq=False, slots=True)
class _Lease:
    """One client's interpreter."""

    sandbox: Sandbox
    used: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    last: int | None = None
    """Number of the last run that was answered."""
    answer: ExecResult | SandboxError | None = None


class Leases:
    """All sessions of a server."""

    def __init__(self, pool: SandboxPool, idle_s: float) -> None:
        self._pool = pool
        self._idle_s = idle_s
        self._leases: dict[str, _Lease] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    async def open(self, name: str) -> None:
        """Lease an interpreter under that id; asking again for an open one does nothing.

        Raises BadRequest on an id that could be guessed, SandboxError when none can be had.
        """
        if not (MIN_ID <= len(name) <= MAX_ID and name.isalnum() and name.isascii()):
            raise BadRequest(f"a session id is {MIN_ID} to {MAX_ID} letters and digits, at random")
        lock = self._opening.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                if name not in self._leases:
                    sandbox = await self._pool.acquire()
                    self._leases[name] = _Lease(sandbox, time.monotonic())
        finally:
            self._opening.pop(name, None)

    async def run(self, name: str, number: int, code: str, timeout_s: float) -> ExecResult:
        """Run `code` as run `number` of a session, or repeat the answer to that number.

        Raises BadRequest: 404 for an unknown session, 409 for a number gone by, 500 when the box was
        lost (which asking again does not mend).
        """
        lease = self._of(name)
        async with lease.lock:
            if lease.last is not None and number <= lease.last:
                if number < lease.last or lease.answer is None:
                    raise BadRequest(f"run {number} is over and forgotten", 409)
            else:
                lease.last, lease.answer = number, None
                try:
                    lease.answer = await lease.sandbox.run(code, timeout_s=timeout_s)
                except SandboxError as error:
                    lease.answer = error
            lease.used = time.monotonic()
            if isinstance(lease.answer, SandboxError):
                raise BadRequest(str(lease.answer), 500)
            return lease.answer

    async def reset(self, name: str) -> None:
        """Forget a session's state. Raises BadRequest 404."""
        lease = self._of(name)
        async with lease.lock:
            await lease.sandbox.reset()
            lease.used = time.monotonic()

    async def close(self, name: str) -> None:
        """Give a session back, ending what runs in it; an unknown one is none to close."""
        lease = self._leases.pop(name, None)
        if lease is not None:
            await lease.sandbox.close()

    def _of(self, name: str) -> _Lease:
        lease = self._leases.get(name)
        if lease is None:
            raise BadRequest("there is no such session; it was closed, perhaps for idleness", 404)
        return lease

    async def reap(self) -> None:
        """Close idle sessions until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK_S, self._idle_s / 2))
            old = time.monotonic() - self._idle_s
            for name, lease in list(self._leases.items()):
                if lease.used < old and not lease.lock.locked():
                    await self.close(name)

    async def close_all(self) -> None:
        """Close every session."""
        for name in list(self._leases):
            await self.close(name)


__all__ = ["MAX_ID", "MIN_ID", "Leases"]
