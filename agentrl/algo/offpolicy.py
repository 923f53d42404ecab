"""The fixed, detached stage between advantage and loss: what the data's age and engine cost.

d_t = log pi_learner(x_t) - log pi_behaviour(x_t), both under the segment's temperature, so exp(d) is
the importance ratio itself and every bound below is a bound on it. The weight multiplies the
per-token loss from outside; it never enters the clip. What is rejected leaves the batch's mask
and its counts. A sequence is a trajectory: d is summed over all its rows, as it was sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from agentrl.algo.loss import MAX_LOG_RATIO
from agentrl.algo.rejection import Bounds, Rule, check_rules, rejected
from agentrl.algo.tensors import distinct
from agentrl.algo.types import Batch, RowContext
from agentrl.errors import UserError
from agentrl.transcript import Origin

Level = Literal["off", "token", "sequence"]


@dataclass(frozen=True, slots=True)
class Correction:
    """Truncated importance sampling (TIS), or IcePop when `low` is set; rejection besides.

    Level `token`: w_t = min(exp(d_t), high). Level `sequence`: w = min(exp(sum of d over the
    trajectory's masked tokens), high) on each of them. With `low`: w = ratio inside [low, high],
    else 0, and the token still counts in the loss's denominator.
    OpenRLHF's seq-mask-tis is level `token` with a rule on `sequence_mean_k1`.
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
    reject: Mapping[Rule, Bounds] = field(default_factory=dict[Rule, Bounds])
    """Rule -> [low, high] that tokens or trajectories must keep to; see `rejection.rejected`."""

    def __post_init__(self) -> None:
        if self.high <= 0 or (self.low is not None and not 0 <= self.low < self.high):
            raise UserError(
                f"offpolicy bounds are ratios with 0 <= low < high, not {self.low} and {self.high}"
            )
        if self.old == "behaviour" and (self.level != "off" or self.reject):
            raise UserError(
                "offpolicy.old=behaviour already puts the mismatch into the ratio; "
                "set level=off and no reject, or old=learner"
            )
        check_rules(self.reject)

    def needs_whole(self, batch: Batch) -> bool:
        """Weights or mask depend on rows beyond a micro-batch: the learner's logprobs must be had
        before the update."""
        rows = len(batch) > distinct(batch.trajectory_index).n
        return self.normalize or bool(self.reject) or (self.level == "sequence" and rows)

    def weights(
        self, old: Tensor, behaviour: Tensor, mask: Tensor, sequences: Tensor | None = None
    ) -> Tensor:
        """f32 [B, T]: zero off the mask, without gradient.

        `sequences` i64 [B] is `batch.trajectory_index`; without it every row is a sequence.
        """
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
            sequences=sequences,
        )


OFF = Correction()


class Kept(NamedTuple):
    """What rejection leaves."""

    batch: Batch
    """Its mask and counts without what was rejected."""
    metrics: Mapping[str, float]
    """`rejected_token_share`, `rejected_sequence_share` (trajectories that lost a token), and
    `reject/<rule>`: the share of the tokens that each rule alone would reject."""


def keep(batch: Batch, correction: Correction) -> Kept:
    """Apply the correction's rejection rules to a step's whole batch, before it is cut up.

    It comes after the advantages: what is rejected has counted in their statistics, as an excluded
    trajectory does. Weights are normalised over what is left.

    Raises ValueError when there are rules and no `old_logprobs` yet.
    """
    if not correction.reject:
        return Kept(batch, {})
    if batch.old_logprobs is None:
        raise ValueError("rejection needs the learner's logprobs before the update")
    against = denominators(batch, batch.old_logprobs, correction)
    d = log_ratios(against.old, against.behaviour, batch.mask)
    numbered = distinct(batch.trajectory_index)
    out = rejected(d, batch.mask, numbered, correction.reject)
    n_tokens = max(int(batch.mask.sum()), 1)
    gone = out.total & batch.mask
    hit = distinct(batch.trajectory_index[gone.any(1)]).n if bool(gone.any()) else 0
    trained = distinct(batch.trajectory_index[batch.mask.any(1)]).n
    metrics = {
        "rejected_token_share": int(gone.sum()) / n_tokens,
        "rejected_sequence_share": hit / max(trained, 1),
    }
    for rule, mark in out.by_rule.items():
        metrics[f"reject/{rule}"] = int((mark & batch.mask).sum()) / n_tokens
    return Kept(_without(batch, gone), metrics)


def correct(
    old: Tensor,
    behaviour: Tensor,
    mask: Tensor,
    *,
    level: Literal["token", "sequence"],
    low: float | None = None,
    high: float = 2.0,
    normalize: bool = False,
    sequences: Tensor | None = None,
) -> Tensor:
    """Importance weights [B, T] from two sets of logprobs [B, T]; see `Correction`."""
    d = log_ratios(old, behaviour, mask)
    numbered = distinct(torch.arange(len(d), device=d.device) if sequences is None else sequences)
    if level == "sequence":
        per_sequence = d.new_zeros(numbered.n).index_add(0, numbered.inverse, d.sum(1))
        total = per_sequence.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)[numbered.inverse, None]
        d = total.expand_as(d)
    ratio = d.exp()
    if low is None:
        weights = ratio.clamp(max=high)
    else:
        weights = ratio.masked_fill((ratio < low) | (ratio > high), 0.0)
    weights = weights * mask
    if normalize:
        mean = _mean_weight(weights, mask, numbered.inverse if level == "sequence" else None)
        weights = weights / mean.clamp(min=1e-8)
    return weights


def log_ratios(old: Tensor, behaviour: Tensor, mask: Tensor) -> Tensor:
    """d [B, T], clamped, detached, zero off the mask."""
    d = (old.detach() - behaviour.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.masked_fill(~mask, 0.0)


def _mean_weight(weights: Tensor, mask: Tensor, sequences: Tensor | None) -> Tensor:
    """Over tokens, or over sequences with a token in the mask."""
    if sequences is None:
        return weights.sum() / mask.sum().clamp(min=1)
    trained = mask.any(1)
    if not bool(trained.any()):
        return weights.new_ones(())
    each = distinct(sequences[trained])
    # Rows of one trajectory carry the same weight, so whichever is written last is right.
    values = weights.amax(1)[trained]
    return weights.new_zeros(each.n).index_put((each.inverse,), values).mean()


def _without(batch: Batch, gone: Tensor) -> Batch:
    """The batch less the tokens marked bool [B, T], in mask, counts and advantages."""
    mask = batch.mask & ~gone
    of = distinct(batch.trajectory_index)
    zeros = torch.zeros(of.n, dtype=torch.int64, device=mask.device)
    trained = zeros.index_add(0, of.inverse, mask.sum(1))
    before = zeros.index_add(0, of.inverse, batch.mask.sum(1))
    return replace(
        batch,
        mask=mask,
        trained=trained[of.inverse],
        n_tokens=batch.n_tokens - int((batch.mask & gone).sum()),
        n_sequences=batch.n_sequences - int(((before > 0) & (trained == 0)).sum()),
        advantages=None if batch.advantages is None else batch.advantages * mask,
    )


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


def mismatch(
    d: Tensor, weights: Tensor, correction: Correction, sequences: Tensor | None = None
) -> Mapping[str, float]:
    """Metrics over N corrected tokens: log-ratios `d` [N], weights [N], trajectory of each [N].

    `kl_k1`, `kl_k3` estimate KL(behaviour || learner) and `chi2`, `chi2_sequence` the chi-squared
    divergence E[ratio^2] - 1 of tokens and trajectories; `ppl_ratio` is the mean over trajectories
    of the learner's perplexity over the behaviour's; `ess` is the effective share of the tokens,
    (sum w)^2 / (N sum w^2), of the weights in use; `weight_clipped_share` is the share of tokens
    whose ratio, at the correction's level, is out of bounds. Without `sequences` the metrics of
    trajectories are left out.
    """
    if not len(d):
        return {}
    d, weights = d.double(), weights.double()
    ratio = d.exp()
    low = 0.0 if correction.low is None else correction.low
    in_use = ratio
    by_sequence: dict[str, float] = {}
    if sequences is not None:
        of = distinct(sequences)
        sums = d.new_zeros(of.n).index_add(0, of.inverse, d)
        counts = d.new_zeros(of.n).index_add(0, of.inverse, torch.ones_like(d))
        product = sums.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        in_use = product[of.inverse] if correction.level == "sequence" else ratio
        by_sequence = {
            "chi2_sequence": float((product**2).mean() - 1),
            "ratio_max_sequence": float(product.max()),
            "ppl_ratio": float((-sums / counts).exp().mean()),
        }
    outside = (in_use > correction.high) | (in_use < low)
    return {
        "kl_k1": float(-d.mean()),
        "kl_k3": float((ratio - d - 1).mean()),
        "ratio_max": float(ratio.max()),
        "chi2": float((ratio**2).mean() - 1),
        "ess": float(weights.sum() ** 2 / (len(d) * (weights**2).sum()).clamp(min=1e-12)),
        "weight_mean": float(weights.mean()),
        "weight_clipped_share": float(outside.double().mean()),
    } | by_sequence


__all__ = [
    "OFF",
    "Correction",
    "Denominators",
    "Kept",
    "correct",
    "denominators",
    "keep",
    "log_ratios",
    "mismatch",
]
