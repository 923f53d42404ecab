"""Schedules of the reference model: hard resets and a moving anchor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from agentrl.errors import UserError
from agentrl.points import NO_PATCH, Ctx, Need, Patch

RESET_METRIC = "reset_reference"
"""Metric of a step at which the reference was reset: 1."""


@dataclass(frozen=True, slots=True)
class ReferenceReset:
    """Reset when validation stalls (ProRL, 2505.24864): the reference becomes the policy.

    At a step that follows an evaluation: when the best value since the last reset is at least
    `patience` steps old, reset. The value at the reset is the one to beat from then on. It counts
    the resets that `Ctx.past` reports; of a run without such reports it works out its own, which
    agree as long as the whole run is remembered (`agentrl.points.PAST` steps).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    patience: int = 100
    """Steps without improvement."""
    metric: str = "eval/accuracy"
    """Higher is better; steps without it, or where it is not finite, are passed over."""
    min_delta: float = 0.0
    """The least improvement that counts."""
    optimizer: bool = True
    """The optimiser forgets its moments as well (the paper; NVIDIA's v2 keeps them)."""

    def __post_init__(self) -> None:
        if self.patience < 1 or self.min_delta < 0:
            raise UserError("reference_reset needs patience >= 1 and min_delta >= 0")

    def at(self, ctx: Ctx) -> Patch:
        """Both resets, or nothing."""
        if not self.stalled(ctx.past):
            return NO_PATCH
        return Patch(reset_reference=True, reset_optimizer=self.optimizer)

    def stalled(self, past: Sequence[Mapping[str, float]]) -> bool:
        """Whether the newest step evaluated and brought no news for long enough."""
        values = [metrics.get(self.metric, math.nan) for metrics in past]
        best, since = -math.inf, 0
        due = False
        for index, value in enumerate(values):
            if index and past[index].get(RESET_METRIC):
                # The reset came before this step's update, after the evaluation of the step before.
                best, since = _last_finite(values[:index]), index - 1
            due = False
            if not math.isfinite(value):
                continue
            if value > best + self.min_delta:
                best, since = value, index
            elif index - since >= self.patience:
                due, best, since = True, value, index
        return due


def _last_finite(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if math.isfinite(value)), -math.inf)


@dataclass(frozen=True, slots=True)
class PeriodicReset:
    """Reset every so many steps (ProRL v2: 200 to 500, the optimiser's moments kept)."""

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    every: int
    optimizer: bool = False
    """The optimiser forgets its moments as well."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"periodic_reset needs every >= 1, not {self.every}")

    def at(self, ctx: Ctx) -> Patch:
        """Reset at steps `every`, 2 `every`, ..."""
        if ctx.step == 0 or ctx.step % self.every:
            return NO_PATCH
        return Patch(reset_reference=True, reset_optimizer=self.optimizer)


@dataclass(frozen=True, slots=True)
class MovingAnchor:
    """The reference follows the policy (T1, 2501.11651; RLP, 2510.01265 with rate 0.999).

    Every `every` steps reference <- rate reference + (1 - rate) policy.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    rate: float = 0.99
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1 or self.every < 1:
            raise UserError("moving_anchor needs 0 <= rate < 1 and every >= 1")

    def at(self, ctx: Ctx) -> Patch:
        """The rate at steps `every`, 2 `every`, ..."""
        if ctx.step == 0 or ctx.step % self.every:
            return NO_PATCH
        return Patch(anchor=self.rate)


__all__ = ["RESET_METRIC", "MovingAnchor", "PeriodicReset", "ReferenceReset"]
