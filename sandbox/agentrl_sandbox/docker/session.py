"""A leased interpreter in a container, moved to another one when its own is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import ExecResult
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.docker import wire
from agentrl_sandbox.docker.container import Container

SLACK_S = 15.0
"""For the relay to interrupt, kill and bury, before the container itself is killed."""
_CODE_CHARACTERS = 64 << 20


@dataclass(slots=True)
class Place:
    """An interpreter by number in a container."""

    container: Container
    number: int
    runs: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """What every session of a pool has in common."""

    place: Callable[[], Awaitable[Place]]
    """Makes a fresh interpreter; raises SandboxError."""
    copy: Callable[[Place, int], Awaitable[list[DockerSession]]]
    """Makes sessions that go on from one's present state; raises SandboxError."""
    leave: Callable[[Place], Awaitable[None]]
    """Ends one; never raises."""
    counts: Counts
    released: Callable[[DockerSession], None]
    """Forgets the session and gives its slot back; called once."""


class DockerSession:
    """The `Sandbox` of this back end; made by a pool's `acquire`."""

    def __init__(
        self, terms: Terms, place: Place, waited_s: float = 0.0, *, copied: bool = False
    ) -> None:
        self.copied = copied
        """Made by `fork`, so it takes no slot of the pool."""
        self._terms = terms
        self._place: Place | None = place
        self._lock = asyncio.Lock()
        self._closed = False
        self._waited_s = waited_s

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """Execute `code`; see the contract. `timeout_s` is seconds of wall time.

        The deadline is kept inside the container, as `local` keeps it; if the container does not
        answer `SLACK_S` later it is killed. The first run's `queue_s` holds the wait for the lease too.
        Raises SandboxError when the container was lost.
        """
        asked = time.monotonic()
        async with self._lock:
            place = await self._live_place()
            if (refusal := refused(code, place.container)) is not None:
                return refusal
            queue_s = time.monotonic() - asked + self._waited_s
            self._waited_s = 0.0
            self._terms.counts.began()
            place.runs += 1
            answer = await place.container.ask(
                "run",
                place.number,
                code=code,
                timeout_s=timeout_s,
                deadline_s=timeout_s + SLACK_S,
            )
        result = to_result(answer, queue_s)
        if result.state_lost:
            self._terms.counts.replaced()
        self._terms.counts.ended(result)
        return result

    async def _live_place(self) -> Place:
        if self._closed:
            raise SandboxError("this sandbox session is closed")
        place = self._place
        if place is not None and place.container.lost:
            self._place = None
            self._terms.counts.replaced()
            await self._terms.leave(place)
            if place.runs:
                raise SandboxError("the container was lost, and all state with it")
        if self._place is None:
            self._place = await self._terms.place()
        return self._place

    async def fork(self, n: int) -> list[DockerSession]:
        """`n` sessions in the same container that go on from this one's present state.

        See the `local` session's. Raises SandboxError, also when the container has no room for so
        many, and UserError for a negative `n`.
        """
        if n < 0:
            raise UserError(f"fork({n}): ask for a number of copies from 0 on")
        async with self._lock:
            place = await self._live_place()
            return await self._terms.copy(place, n) if n else []

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs; see `agentrl.sandbox.Interruptible`."""
        place = self._place
        if self._lock.locked() and place is not None:
            await place.container.ask("interrupt", place.number, deadline_s=SLACK_S)

    async def reset(self) -> None:
        """Forget all state; see the contract."""
        async with self._lock:
            place = await self._live_place()
            await place.container.ask("reset", place.number, deadline_s=SLACK_S)
            place.runs = 0

    async def close(self) -> None:
        """End the interpreter and give the slot back. Idempotent; a run in flight ends at once."""
        if self._closed:
            return
        self._closed = True
        place, self._place = self._place, None
        try:
            if place is not None:
                await self._terms.leave(place)
        finally:
            self._terms.released(self)


def refused(code: str, container: Container) -> ExecResult | None:
    """What to answer to code that is too long to be sent."""
    if len(code) <= _CODE_CHARACTERS:
        return None
    told = f"the code is longer than {_CODE_CHARACTERS >> 20} million characters"
    return ExecResult("error", error=told, isolation=container.isolation)


def to_result(answer: wire.Result | None, queue_s: float) -> ExecResult:
    """What the relay found, and the seconds waited for it out here added to its own."""
    assert answer is not None
    fields: dict[str, Any] = {**answer, "queue_s": queue_s + answer["queue_s"]}
    return ExecResult(**fields)
