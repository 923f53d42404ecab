"""Budgets of an episode, and what enforces them: slots, leases and clipping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic

from agentrl.chat.base import Tokenizer
from agentrl.context import LimiterStatistics
from agentrl.env import Forkable, Observation
from agentrl.errors import CannotFork, SandboxError
from agentrl.sandbox import Sandbox, SandboxPool

CUT = "\ufffd"
"""What the bytes of an unfinished character decode to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one episode may use. Tokens count sampled and observed ones alike unless named."""

    max_turns: int = 8
    max_calls: int = 16
    max_parse_errors: int = 2
    """Unreadable actions in a row that are answered; one more ends the episode."""
    turn_tokens: int = 1024
    """Sampled tokens of one generation."""
    max_tokens: int = 4096
    """Tokens of one row, the prompt included."""
    observation_tokens: int = 1024
    """Tokens of one observation message; a longer one loses its middle."""
    episode_s: float | None = 600.0
    """Wall-clock deadline; None for none."""
    generate_s: float = 600.0
    """Deadline of one generation; passing it is the engine's failure."""
    close_s: float = 10.0
    """Deadline of the environment's `close`."""


class Slots:
    """A bounded number of holders at once, first come first served, with statistics."""

    def __init__(self, capacity: int) -> None:
        self._semaphore = asyncio.Semaphore(capacity)
        self._capacity = capacity
        self._borrowed = 0
        self._waiting = 0
        self._total_wait_s = 0.0

    def slot(self) -> AbstractAsyncContextManager[float]:
        """Hold one place; entering gives the seconds waited."""
        return self._slot()

    @asynccontextmanager
    async def _slot(self) -> AsyncGenerator[float]:
        asked = monotonic()
        self._waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self._waiting -= 1
        waited_s = monotonic() - asked
        self._total_wait_s += waited_s
        self._borrowed += 1
        try:
            yield waited_s
        finally:
            self._borrowed -= 1
            self._semaphore.release()

    def statistics(self) -> LimiterStatistics:
        """Counts at this moment."""
        return LimiterStatistics(
            capacity=self._capacity,
            borrowed=self._borrowed,
            waiting=self._waiting,
            total_wait_s=self._total_wait_s,
        )


class Lease:
    """One episode's sandbox: taken from the pool on first use, returned by `close`."""

    def __init__(self, pool: SandboxPool | None) -> None:
        self._pool = pool
        self._lock = asyncio.Lock()
        self._sandbox: Sandbox | None = None

    async def get(self) -> Sandbox:
        """The episode's sandbox. Raises RuntimeError when the run has no pool."""
        async with self._lock:
            if self._sandbox is None:
                if self._pool is None:
                    raise RuntimeError("a tool asked for a sandbox, but the run opened no pool")
                self._sandbox = await self._pool.acquire()
            return self._sandbox

    async def fork(self, n: int) -> list[Lease]:
        """Leases of the same pool that hold copies of this one's sandbox, if it has one yet.

        Raises CannotFork when the sandbox cannot be copied.
        """
        leases = [Lease(self._pool) for _ in range(n)]
        async with self._lock:
            if self._sandbox is None:
                return leases
            if not isinstance(self._sandbox, Forkable):
                raise CannotFork(f"a {type(self._sandbox).__name__} sandbox cannot be copied")
            try:
                copies = await self._sandbox.fork(n)
            except SandboxError as error:
                raise CannotFork(f"the sandbox was not copied: {error}") from error
        for lease, sandbox in zip(leases, copies, strict=True):
            lease._sandbox = sandbox
        return leases

    async def close(self) -> None:
        """Give the sandbox back. Idempotent."""
        sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            await sandbox.close()


def clip_text(text: str, budget: int, tokenizer: Tokenizer) -> str:
    """`text` within `budget` tokens: its head and tail kept, `...` where the middle was."""
    if len(text) <= budget // 4:
        return text
    ids = tokenizer.encode(text)
    if len(ids) <= budget:
        return text
    dots = tokenizer.encode("...")
    room = max(0, budget - len(dots))
    head, tail = ids[: room // 2], ids[len(ids) - (room - room // 2) :]
    # A character cut in two would decode to U+FFFD, which takes more tokens than were cut.
    before, after = tokenizer.decode(head).rstrip(CUT), tokenizer.decode(tail).lstrip(CUT)
    return before + "..." + after


def clip_observation(
    observation: Observation, budget: int, tokenizer: Tokenizer
) -> tuple[Observation, frozenset[str]]:
    """Every message within `budget` tokens, and the call ids of those that were cut."""
    clipped = tuple(
        replace(m, content=clip_text(m.content, budget, tokenizer)) for m in observation
    )
    cut = frozenset(
        new.call_id or ""
        for new, old in zip(clipped, observation, strict=True)
        if new.content != old.content
    )
    return clipped, cut
