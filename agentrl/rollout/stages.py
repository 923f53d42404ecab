"""What an episode is busy with, since when, and until when: a deadline for every stage."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Literal

from agentrl.errors import DeadlineExceeded, EngineError, WorldFault
from agentrl.rollout.limits import Limits

Stage = Literal["new", "setup", "queue", "generation", "step", "plan", "closing"]
"""`queue`: it waits for a place in the engine; `plan`: its plan decides what comes next."""

CLOCK_S = 1e-3
"""A timer may fire so much early."""


class StageClock:
    """One per episode."""

    __slots__ = ("_limits", "deadline", "since", "stage")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.stage: Stage = "new"
        self.since = monotonic()
        """`time.monotonic()` at which the stage began."""
        self.deadline: float | None = None
        """`time.monotonic()` at which the episode ends; None for never."""

    def start(self) -> None:
        """The episode's own time begins."""
        limit_s = self._limits.episode_s
        self.deadline = None if limit_s is None else monotonic() + limit_s

    def enter(self, stage: Stage) -> None:
        """The next stage begins."""
        self.stage, self.since = stage, monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return monotonic() - self.since

    def until(self) -> float | None:
        """When the stage, or the episode, must be over if it is entered now; the event loop's time."""
        limit_s, now = self._limit_s(), asyncio.get_running_loop().time()
        if self.deadline is None:
            return None if limit_s is None else now + limit_s
        left_s = self.deadline - monotonic()
        return now + (left_s if limit_s is None else min(left_s, limit_s))

    @property
    def over(self) -> bool:
        """The episode's own deadline has passed."""
        return self.deadline is not None and monotonic() >= self.deadline - CLOCK_S

    def fault(self) -> WorldFault:
        """Whose failure it is that the present stage took too long."""
        limits = self._limits
        if self.stage == "generation":
            return EngineError(f"no generation within {limits.generate_s:g} s")
        if self.stage == "step":
            return DeadlineExceeded(f"the environment did not answer within {limits.step_s:g} s")
        limit_s = limits.episode_s if self.over else limits.setup_s
        return DeadlineExceeded(f"the environment did not start within {limit_s:g} s")

    def _limit_s(self) -> float | None:
        match self.stage:
            case "setup":
                return self._limits.setup_s
            case "generation":
                return self._limits.generate_s
            case "step":
                return self._limits.step_s
            case _:
                return None


__all__ = ["Stage", "StageClock"]
