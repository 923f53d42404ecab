"""Rejection rules: which tokens or trajectories are too far off-policy to train on at all.

With d = log pi_learner - log pi_behaviour of a token, k1 is the importance ratio exp(d) itself (its
product for a sum, its geometric mean for a mean), k2 = d^2 / 2 and k3 = exp(d) - 1 - d are
divergences. Bounds are bounds on these numbers. verl compares -d with the logarithms of k1's bounds,
so that an asymmetric pair acts on the inverse ratio there; here it acts on the ratio.

| rule | compares | rejects | as in |
|---|---|---|---|
| token_k1, _k2, _k3 | each token | the token | verl |
| sequence_sum_k1, _k2, _k3 | the trajectory's product or sum | the trajectory | verl's seq_sum |
| sequence_mean_k1, _k2, _k3 | its geometric or plain mean | the trajectory | geometric filters |
| sequence_max_k1, _k2, _k3 | its every token | the trajectory | k1 with a low bound: token veto |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from agentrl.algo.tensors import Distinct
from agentrl.config import RejectionRule
from agentrl.errors import UserError

Rule: TypeAlias = RejectionRule
Bounds: TypeAlias = tuple[float | None, float | None]
"""[low, high], inclusive; None leaves a side open."""


class Rejected(NamedTuple):
    """Marks bool [B, T]; off the mask they say nothing."""

    total: Tensor
    """Rejected by some rule."""
    by_rule: Mapping[Rule, Tensor]
    """What each rule alone rejects."""


def rejected(
    d: Tensor, mask: Tensor, sequences: Distinct, rules: Mapping[Rule, Bounds]
) -> Rejected:
    """Try every rule on log-ratios `d` [B, T], zero off `mask`; a token must pass all of them.

    `sequences` numbers the rows' trajectories.
    """
    total = torch.zeros_like(mask)
    by_rule: dict[Rule, Tensor] = {}
    for rule, bounds in rules.items():
        marks = _marks(rule, bounds, d.double(), mask, sequences)
        by_rule[rule] = marks
        total = total | marks
    return Rejected(total, by_rule)


def check_rules(rules: Mapping[Rule, Bounds]) -> None:
    """Raises UserError on bounds that make no sense."""
    for rule, (low, high) in rules.items():
        if low is None and high is None:
            raise UserError(
                f"offpolicy.reject.{rule} has no bound; give [low, high], null for none"
            )
        if (low or 0.0) < 0 or (high is not None and high <= (low or 0.0)):
            raise UserError(
                f"offpolicy.reject.{rule} needs 0 <= low < high, not {low} and {high}; k1 is bounded "
                "as a ratio (around 1), k2 and k3 as divergences (from 0)"
            )


def _marks(rule: Rule, bounds: Bounds, d: Tensor, mask: Tensor, sequences: Distinct) -> Tensor:
    kind = rule[-2:]
    low, high = (_logs if kind == "k1" else _plain)(bounds)
    values = {"k1": d, "k2": d.square() / 2, "k3": d.exp() - 1 - d}[kind]
    outside = ((values < low) | (values > high)) & mask
    if rule.startswith("token"):
        return outside
    totals = values.new_zeros(sequences.n)
    if "max" in rule:
        marked = totals.index_add(0, sequences.inverse, outside.sum(1).to(totals.dtype)) > 0
    else:
        sums = totals.index_add(0, sequences.inverse, (values * mask).sum(1))
        if "mean" in rule:
            counts = totals.index_add(0, sequences.inverse, mask.sum(1).to(totals.dtype))
            sums = sums / counts.clamp(min=1)
        marked = (sums < low) | (sums > high)
    return marked[sequences.inverse, None].expand_as(mask)


def _logs(bounds: Bounds) -> tuple[float, float]:
    low, high = bounds
    return (math.log(low) if low else -math.inf, math.inf if high is None else math.log(high))


def _plain(bounds: Bounds) -> tuple[float, float]:
    low, high = bounds
    return (low or -math.inf, math.inf if high is None else high)


__all__ = ["Bounds", "Rejected", "Rule", "check_rules", "rejected"]
