"""What an episode hands to its environment and tools: the sandbox lease, limiters, deadline, seed.

Secrets never enter a Context: `settings` holds plain JSON values from the config.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from agentrl.sandbox import Sandbox
from agentrl.types import JsonValue


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """A limiter at one moment."""

    capacity: int
    borrowed: int
    waiting: int
    total_wait_s: float
    """Seconds spent waiting by all that have been admitted so far."""
    admitted: int = 0
    """How many those are."""
    longest_wait_s: float = 0.0
    """Of any of them."""


class Limiter(Protocol):
    """Admits a bounded number of holders at once."""

    def slot(self) -> AbstractAsyncContextManager[float]:
        """Hold one place; entering gives the seconds waited."""
        ...

    def statistics(self) -> LimiterStatistics:
        """Counts for metrics."""
        ...


class Unlimited:
    """A limiter that admits everyone, for tests and single episodes."""

    def slot(self) -> AbstractAsyncContextManager[float]:
        """Enter at once."""
        return nullcontext(0.0)

    def statistics(self) -> LimiterStatistics:
        """Always idle."""
        return LimiterStatistics(capacity=0, borrowed=0, waiting=0, total_wait_s=0.0)


async def no_sandbox() -> Sandbox:
    """The lease of an episode that was given no sandbox."""
    raise RuntimeError("this episode was given no sandbox; pass `lease_sandbox` in its Context")


@dataclass(frozen=True, slots=True)
class Context:
    """One episode's surroundings."""

    lease_sandbox: Callable[[], Awaitable[Sandbox]] = no_sandbox
    """Returns the episode's own sandbox, leased on the first call and closed by the episode."""
    tool_limiter: Limiter = field(default_factory=Unlimited)
    """Bounds tool calls in flight over all episodes."""
    deadline: float | None = None
    """`time.monotonic()` at which the episode ends; None when only tokens and CPU are limited."""
    seed: int = 0
    """The environment's seed; equal among siblings."""
    settings: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def remaining_s(self, at_most: float) -> float:
        """Seconds left until the deadline, `at_most` when there is none."""
        if self.deadline is None:
            return at_most
        return max(0.0, min(at_most, self.deadline - monotonic()))
