"""Budgets of an episode, and what enforces them: leases and clipping; slots are in `slots`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from agentrl.chat.base import Tokenizer
from agentrl.env import Forkable, Observation, StepResult
from agentrl.errors import CannotFork, SandboxError
from agentrl.rollout.slots import Slots
from agentrl.sandbox import Sandbox, SandboxPool

CUT = "\ufffd"
"""What the bytes of an unfinished character decode to."""
CHARACTERS_PER_TOKEN = 16
"""More than any prose or code needs: beyond so many a text is cut before it is encoded."""


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
    setup_s: float = 300.0
    """Deadline of the environment's `open` and `reset`; passing it is the world's failure."""
    generate_s: float = 600.0
    """Deadline of one generation; passing it is the engine's failure."""
    step_s: float = 600.0
    """Deadline of the environment's answer to one turn, whose calls have deadlines of their own;
    passing it is the world's failure."""
    close_s: float = 10.0
    """Deadline of the environment's `close`."""


class Lease:
    """One episode's sandbox: taken from the pool on first use, returned by `close`."""

    def __init__(self, pool: SandboxPool | None) -> None:
        self._pool = pool
        self._lock = asyncio.Lock()
        self._sandbox: Sandbox | None = None

    @property
    def held(self) -> bool:
        """There is a sandbox to give back, or one is being taken."""
        return self._sandbox is not None or self._lock.locked()

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
    """`text` within `budget` tokens: its head and tail kept, `...` where the middle was.

    What is much longer than any such text could be is cut before it is encoded, so that megabytes
    cost nothing.
    """
    if len(text) <= budget // 4:
        return text
    half = CHARACTERS_PER_TOKEN * budget // 2
    if len(text) > 2 * half:
        head, tail = tokenizer.encode(text[:half]), tokenizer.encode(text[-half:])
    else:
        head = tail = tokenizer.encode(text)
        if len(head) <= budget:
            return text
    room = max(0, budget - len(tokenizer.encode("...")))
    head, tail = head[: room // 2], tail[max(0, len(tail) - (room - room // 2)) :]
    # A character cut in two would decode to U+FFFD, which takes more tokens than were cut.
    before, after = tokenizer.decode(head).rstrip(CUT), tokenizer.decode(tail).lstrip(CUT)
    return before + "..." + after


def clip_result(result: StepResult, budget: int, tokenizer: Tokenizer) -> StepResult:
    """The step with every text that the model reads within `budget` tokens.

    The ledger keeps what was read: a result that was cut is marked `truncated`.
    """
    shown: dict[str, str] = {}

    def clipped(text: str) -> str:
        """Each text once: a message and its ledger line mostly share it."""
        if text not in shown:
            shown[text] = clip_text(text, budget, tokenizer)
        return shown[text]

    observation: Observation = tuple(
        m if clipped(m.content) is m.content else replace(m, content=clipped(m.content))
        for m in result.observation
    )
    results = tuple(
        r
        if clipped(r.content) is r.content
        else replace(r, content=clipped(r.content), truncated=True)
        for r in result.info.results
    )
    return result._replace(observation=observation, info=replace(result.info, results=results))


__all__ = ["Lease", "Limits", "Slots", "clip_result", "clip_text"]
