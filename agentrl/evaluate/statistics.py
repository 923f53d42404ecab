"""Estimators of an evaluation: pass@k and confidence intervals. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


class Interval(NamedTuple):
    """An estimate and its 95 % confidence bounds, all in [0, 1]."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """Share of successes with the Wilson score interval (Wilson 1927). Raises ValueError on no trials."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    return _wilson(successes / trials, trials)


def _wilson(p: float, trials: int) -> Interval:
    scale = 1 + Z95**2 / trials
    centre = (p + Z95**2 / (2 * trials)) / scale
    half = Z95 / scale * math.sqrt(p * (1 - p) / trials + Z95**2 / (4 * trials**2))
    # Rounding may put the bound of a share of 0 or 1 an ulp on the wrong side of p.
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def mean_of_tasks(shares: Sequence[float]) -> Interval:
    """Mean of per-task shares; siblings are not independent, so tasks are the unit.

    Normal approximation over tasks, sample standard deviation; Wilson's interval with the tasks as
    trials where all shares are equal and that would have no width. Raises ValueError on no task.
    """
    if not shares:
        raise ValueError("no task was scored")
    mean = fmean(shares)
    if len(set(shares)) == 1:
        return _wilson(mean, len(shares))
    half = Z95 * stdev(shares) / math.sqrt(len(shares))
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of P(any of k is correct) from n samples (Chen et al. 2021, eq. 1).

    1 - C(n-c, k) / C(n, k). Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} correct in {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
