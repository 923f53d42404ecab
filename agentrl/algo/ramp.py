"""A number that may change over the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentrl.errors import UserError

Shape = Literal["linear", "cosine"]


def between(start: float, end: float, done: float, shape: Shape) -> float:
    """From `start` at `done` 0 to `end` at 1 and beyond, straight or along half a cosine wave."""
    if done >= 1:
        return end
    if shape == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return start + (end - start) * done


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `start` at step 0 to `end` at step `steps`, and `end` from there on."""

    start: float
    end: float
    steps: int
    shape: Shape = "linear"
    """Straight, or half a cosine wave: slow at both ends."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"a ramp takes at least 1 step, not {self.steps}")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise UserError(f"a ramp goes between numbers, not {self.start} and {self.end}")

    def at(self, step: int) -> float:
        """The value at a step, counted from 0."""
        return between(self.start, self.end, max(step, 0) / self.steps, self.shape)


Ramped: TypeAlias = float | Ramp
"""A constant, or in a config `{start: 0.005, end: 0.001, steps: 80}`."""


def value_at(value: Ramped, step: int) -> float:
    """What a constant or a ramp is at a step."""
    return value.at(step) if isinstance(value, Ramp) else value


def check_coef(name: str, value: Ramped) -> None:
    """Raises UserError for a coefficient that is negative or no number, at either end of a ramp."""
    ends = (value.start, value.end) if isinstance(value, Ramp) else (value,)
    if not all(math.isfinite(end) and end >= 0 for end in ends):
        raise UserError(f"{name} is a number of at least 0 or a ramp of such, not {value}")


__all__ = ["Ramp", "Ramped", "Shape", "between", "check_coef", "value_at"]
