"""Measuring two sides of a comparison in turns, so that a busy moment hits both."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

Side: TypeAlias = Callable[[], Awaitable[float]]
"""One measurement; usually seconds per operation, always such that less is better."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Samples of one side, summed up."""

    n: int
    median: float
    least: float
    p10: float
    p90: float
    p99: float

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        """At least one sample."""
        ordered = sorted(samples)
        return cls(
            n=len(ordered),
            median=statistics.median(ordered),
            least=ordered[0],
            p10=quantile(ordered, 0.10),
            p90=quantile(ordered, 0.90),
            p99=quantile(ordered, 0.99),
        )


def quantile(ordered: list[float], share: float) -> float:
    """The smallest sample that at least `share` of all samples do not exceed."""
    at = -(-len(ordered) * share // 1)
    return ordered[max(int(at) - 1, 0)]


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides, measured in turns."""

    ours: Spread
    peer: Spread

    @property
    def ratio(self) -> float:
        """How many times less we need, best against best: the stable figure on a busy machine."""
        return self.peer.least / self.ours.least

    @property
    def median_ratio(self) -> float:
        """The same with medians."""
        return self.peer.median / self.ours.median


async def in_turns(ours: Side, peer: Side, rounds: int) -> Pair:
    """Measure `rounds` times, each side first in every other round; one round before counts not."""
    await ours()
    await peer()
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        for side, samples in ((ours, mine), (peer, theirs))[:: 1 if number % 2 else -1]:
            samples.append(await side())
    return Pair(Spread.of(mine), Spread.of(theirs))
