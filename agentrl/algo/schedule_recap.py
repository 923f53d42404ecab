"""RECAP (2510.21978): objectives that still move or waver get more of the loss.

With window W, mu_now and mu_prev the mean losses of the last W steps and the W before:
convergence c = mu_prev / mu_now, instability i = sigma / (mu_now + mu_prev), sigma the deviation
of all 2W from mu_now (ddof 1), s = c + i, and weight K softmax(s / T) over the K objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, final

from pydantic import ConfigDict

from agentrl.errors import UserError
from agentrl.points import NO_PATCH, PAST, Ctx, Patch

TINY = 1e-8
"""Keeps the quotients finite when a loss has gone to 0."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One term of the loss and the metric that says how it goes."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    term: str
    """`policy`, or an auxiliary term's registry name."""
    metric: str
    """Of `metrics.jsonl`, non-negative."""
    complement: bool = False
    """Use 1 - metric: a reward in [0, 1] as a loss. RL surrogates are no measure of progress."""


@final
class Recap:
    """Weights of the loss's terms from how their losses went."""

    def __init__(
        self, *, objectives: tuple[Objective, ...], window: int = 10, temperature: float = 5.0
    ) -> None:
        """Check the objectives.

        Args:
            objectives: at least two, each with its term and metric.
            window: W, in steps.
            temperature: T; larger is more even.

        Raises UserError on fewer than two objectives or values out of range.
        """
        if len({objective.term for objective in objectives}) < 2:
            raise UserError("recap needs two or more objectives, each {term: ..., metric: ...}")
        if not 1 <= window <= PAST // 2 or temperature <= 0:
            raise UserError(f"recap needs 1 <= window <= {PAST // 2} and temperature > 0")
        self._objectives, self._window, self._temperature = objectives, window, temperature

    def at(self, ctx: Ctx) -> Patch:
        """The weights, from the 2W-th step on.

        Raises UserError when one of those steps lacks a metric or it is negative.
        """
        recent = ctx.past[-2 * self._window :]
        if len(recent) < 2 * self._window:
            return NO_PATCH
        windows = [self._losses(objective, recent) for objective in self._objectives]
        found = recap_weights(windows, self._temperature)
        return Patch(scales={o.term: w for o, w in zip(self._objectives, found, strict=True)})

    def _losses(self, of: Objective, recent: Sequence[Mapping[str, float]]) -> list[float]:
        raw = [metrics.get(of.metric, math.nan) for metrics in recent]
        losses = [1 - value if of.complement else value for value in raw]
        bad = next((value for value in losses if not value >= 0), None)
        if bad is not None:
            what = "missing" if math.isnan(bad) else f"{bad:g} (1 - it with complement)"
            raise UserError(
                f"recap: {of.metric!r} is {what} in the last {len(recent)} steps; it takes a "
                "non-negative metric of every step, or a reward in [0, 1] with complement=true"
            )
        return losses


def recap_weights(windows: Sequence[Sequence[float]], temperature: float = 5.0) -> list[float]:
    """Weights [K] that sum to K, from each objective's last 2W losses, oldest first."""
    scores = [_score(window) / temperature for window in windows]
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [len(windows) * power / math.fsum(powers) for power in powers]


def _score(losses: Sequence[float]) -> float:
    """c + i."""
    half = len(losses) // 2
    before, now = fmean(losses[:half]), fmean(losses[half:])
    sigma = math.sqrt(math.fsum((x - now) ** 2 for x in losses) / (len(losses) - 1))
    return before / max(now, TINY) + sigma / max(now + before, TINY)


__all__ = ["Objective", "Recap", "recap_weights"]
