"""The fixed, detached stage between advantage and loss: what the data's age and engine cost.

d_t = log pi_learner(x_t) - log pi_behaviour(x_t), both under the segment's temperature, so exp(d) is
the importance ratio itself and every bound below is a bound on it. The weight multiplies the
per-token loss from outside; it never enters the clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from agentrl.algo.loss import MAX_LOG_RATIO
from agentrl.algo.types import Batch, RowContext
from agentrl.errors import UserError
from agentrl.transcript import Origin

Level = Literal["off", "token", "sequence"]


@dataclass(frozen=True, slots=True)
class Correction:
    """Truncated importance sampling (TIS), or IcePop when `low` is set.

    Level `token`: w_t = min(exp(d_t), high). Level `sequence`: w = min(exp(sum of d over the row's
    masked tokens), high) on each of them. With `low`: w = ratio inside [low, high], else 0.
    """

    level: Level = "off"
    low: float | None = None
    high: float = 2.0
    """TRL's, verl's and OpenRLHF's default cap."""
    normalize: bool = False
    """Divide by the mean weight over the optimiser step's batch."""
    old: Literal["learner", "behaviour"] = "learner"
    """What the loss's ratio is taken against: the learner's logprobs before the update (three
    policies), or the recorded ones (bypass: the ratio itself carries the mismatch)."""

    def __post_init__(self) -> None:
        if self.high <= 0 or (self.low is not None and not 0 <= self.low < self.high):
            raise UserError(
                f"offpolicy bounds are ratios with 0 <= low < high, not {self.low} and {self.high}"
            )
        if self.old == "behaviour" and self.level != "off":
            raise UserError(
                "offpolicy.old=behaviour already puts the mismatch into the ratio; set level=off"
            )

    def weights(self, old: Tensor, behaviour: Tensor, mask: Tensor) -> Tensor:
        """f32 [B, T]: zero off the mask, without gradient."""
        if self.level == "off":
            return mask.to(old.dtype)
        return correct(
            old,
            behaviour,
            mask,
            level=self.level,
            low=self.low,
            high=self.high,
            normalize=self.normalize,
        )


OFF = Correction()


def correct(
    old: Tensor,
    behaviour: Tensor,
    mask: Tensor,
    *,
    level: Literal["token", "sequence"],
    low: float | None = None,
    high: float = 2.0,
    normalize: bool = False,
) -> Tensor:
    """Importance weights [B, T] from two sets of logprobs [B, T]; see `Correction`."""
    d = log_ratios(old, behaviour, mask)
    if level == "sequence":
        total = d.sum(1, keepdim=True).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        d = total.expand_as(d)
    ratio = d.exp()
    if low is None:
        weights = ratio.clamp(max=high)
    else:
        weights = ratio.masked_fill((ratio < low) | (ratio > high), 0.0)
    weights = weights * mask
    if normalize:
        weights = weights / _mean_weight(weights, mask, level).clamp(min=1e-8)
    return weights


def log_ratios(old: Tensor, behaviour: Tensor, mask: Tensor) -> Tensor:
    """d [B, T], clamped, detached, zero off the mask."""
    d = (old.detach() - behaviour.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.masked_fill(~mask, 0.0)


def _mean_weight(weights: Tensor, mask: Tensor, level: str) -> Tensor:
    if level == "token":
        return weights.sum() / mask.sum().clamp(min=1)
    trained = mask.any(1)
    return weights.amax(1)[trained].mean() if bool(trained.any()) else weights.new_ones(())


class Denominators(NamedTuple):
    """What the ratio and the correction are taken against, both [B, T]."""

    old: Tensor
    """Denominator of the loss's ratio."""
    behaviour: Tensor
    """Denominator of the correction; equal to `old` where none applies."""


def denominators(batch: Batch, learner_logprobs: Tensor, correction: Correction) -> Denominators:
    """Settle each token's denominators from the learner's logprobs before the update.

    FORCED tokens keep their declared probability. A row trained under another prompt keeps what was
    sampled (`behaviour`: no correction left to make) or takes the recomputed value (`relabel`:
    its mismatch is the hint, not the engine, so it is not corrected).
    """
    recorded = batch.behaviour_logprobs
    learner = learner_logprobs.detach()
    as_recorded = batch.origins == int(Origin.FORCED)
    as_recorded = as_recorded | (batch.contexts == int(RowContext.BEHAVIOUR))[:, None]
    relabelled = (batch.contexts == int(RowContext.RELABEL))[:, None]
    if correction.old == "behaviour":
        as_recorded = as_recorded | ~relabelled
    return Denominators(
        old=torch.where(as_recorded, recorded, learner),
        behaviour=torch.where(relabelled, learner, recorded),
    )


def mismatch(d: Tensor, weights: Tensor, correction: Correction) -> Mapping[str, float]:
    """Metrics over N corrected tokens: log-ratios `d` [N] and weights [N].

    `kl_k1`, `kl_k3` estimate KL(behaviour || learner); `ess` is the effective share of the tokens,
    (sum w)^2 / (N sum w^2), of the weights in use.
    """
    if not len(d):
        return {}
    d, weights = d.double(), weights.double()
    ratio = d.exp()
    low = 0.0 if correction.low is None else correction.low
    outside = (ratio > correction.high) | (ratio < low)
    return {
        "kl_k1": float(-d.mean()),
        "kl_k3": float((ratio - d - 1).mean()),
        "ratio_max": float(ratio.max()),
        "chi2": float((ratio**2).mean() - 1),
        "ess": float(weights.sum() ** 2 / (len(d) * (weights**2).sum()).clamp(min=1e-12)),
        "weight_mean": float(weights.mean()),
        "weight_clipped_share": float(outside.double().mean()),
    }


__all__ = [
    "OFF",
    "Correction",
    "Denominators",
    "correct",
    "denominators",
    "log_ratios",
    "mismatch",
]
