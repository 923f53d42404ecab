"""Group gates that look at how much a group's shaped rewards differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from agentrl.algo.gates import statistic
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Drop, Keep, Need, Verdict
from agentrl.trajectory import Group

METRIC = "reward_std"
"""Metric of a step: the mean of `reward_std` over all its scored groups, dropped ones included."""


def reward_std(group: Group) -> float:
    """Sample standard deviation (ddof 1) of the shaped rewards; 0 for fewer than two."""
    rewards = [t.reward for t in group.scored if t.reward is not None]
    return statistic(rewards, "std") if rewards else 0.0


@dataclass(frozen=True, slots=True)
class StdEma:
    """Drop groups whose reward std is below beta times its moving average (RLPR, 2506.18254).

    Steps count from 0 here. The average starts as the plain mean of the steps `ema_from` to
    `filter_from` - 1, the filter acts from `filter_from` on: steps 6 and 11 of the released code,
    which counts from 1. A later step s uses EMA = decay EMA + (1 - decay) std(s - 1). beta is 0.5
    for Qwen, 0.9 for Llama and 1.0 for Gemma.

    It reads the metric `reward_std` of `Ctx.past`. Past `agentrl.points.PAST` steps the average
    starts at the oldest step remembered, which then weighs decay^390, 2 %.
    """

    beta: float = 0.5
    decay: float = 0.99
    ema_from: int = 5
    filter_from: int = 10
    metric: str = METRIC

    def __post_init__(self) -> None:
        if not 0 <= self.ema_from < self.filter_from or not 0 <= self.decay < 1 or self.beta < 0:
            raise UserError(
                "std_ema needs 0 <= ema_from < filter_from, 0 <= decay < 1 and beta >= 0"
            )

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Drop reason: `std_low`. Raises UserError when no step reported the metric."""
        if ctx.step < self.filter_from:
            return Keep()
        average = self.average(ctx.past, ctx.step)
        return Keep() if reward_std(group) >= self.beta * average else Drop("std_low")

    def average(self, past: Sequence[Mapping[str, float]], step: int) -> float:
        """EMA of the metric before `step`, whose previous steps' metrics `past` ends with."""
        first = max(0, self.ema_from - (step - len(past)))
        values = [metrics.get(self.metric, math.nan) for metrics in past[first:]]
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            raise UserError(
                f"std_ema: no step reported the metric {self.metric!r}; set algo.gate.metric to one "
                "of metrics.jsonl"
            )
        start = self.filter_from - self.ema_from
        average = fmean(finite[:start])
        for value in finite[start:]:
            average = self.decay * average + (1 - self.decay) * value
        return average


@dataclass(frozen=True, slots=True)
class Informative:
    """Train on groups that teach something and remember them (SSB, Skywork R1V2, 2504.16656).

    A group teaches when its shaped rewards differ, or it has token rewards. The others are dropped,
    and what is remembered (`algo.replay`) takes their place.
    """

    min_std: float = 0.0
    """The reward std must be above it."""
    needs: ClassVar[frozenset[Need]] = frozenset({"replay"})

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Keep and remember, or drop as `flat`."""
        by_token = any(bool(tokens.any()) for tokens in group.token_rewards or ())
        if by_token or reward_std(group) > self.min_std:
            return Keep(remember=True)
        return Drop("flat")


__all__ = ["METRIC", "Informative", "StdEma", "reward_std"]
