"""From hidden states to a scalar loss: the one shift, PPO's surrogate, the aggregation.

The other surrogates are in `agentrl.algo.losses`. Everything outside this file is aligned: index t
describes token t. The logits at position t - 1 predict token t; that step back is taken here, in
`predictors` and `token_logprobs`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.errors import UserError

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before `exp`, so that no ratio overflows."""


class TokenScores(NamedTuple):
    """Per-token numbers of one forward, aligned with the ids."""

    logprobs: Tensor
    """f32 [B, T]; 0 where not scored, always at index 0."""
    entropies: Tensor
    """f32 [B, T] in nats; 0 where not scored."""
    values: Tensor | None = None
    """f32 [B, T]: a shared critic's value of the state before each token; None without one."""


def predictors(states: Tensor, tokens: Tensor) -> Tensor:
    """The states that predict the wanted tokens, in row order.

    `states` [B, T or T-1, ...], `tokens` bool [B, T] (never index 0) -> [N, ...].
    """
    n_columns = states.shape[1]
    rows, columns = tokens.nonzero(as_tuple=True)
    return states.flatten(0, 1).index_select(0, rows * n_columns + columns - 1)


def token_logprobs(logits: Tensor, token_ids: Tensor, temperatures: Tensor) -> TokenScores:
    """Logprobs and entropies of the given tokens.

    `logits` [B, T, V] at each position, `token_ids` i64 [B, T], `temperatures` f32 [B, T] of each
    *token*. Works row by row in fp32, so that at most one row's [T, V] copy is added to `logits`
    beyond what a gradient keeps. Index 0 has no context and stays 0.
    """
    logprobs = torch.zeros_like(temperatures)
    entropies = torch.zeros_like(temperatures)
    for row in range(len(token_ids)):
        wide = torch.promote_types(logits.dtype, torch.float32)
        scaled = logits[row, :-1].to(wide) / temperatures[row, 1:, None]
        log_z = scaled.logsumexp(-1)
        chosen = scaled.gather(-1, token_ids[row, 1:, None])[:, 0]
        logprobs[row, 1:] = (chosen - log_z).to(logprobs.dtype)
        mean = ((scaled - log_z[:, None]).exp() * scaled).sum(-1)
        entropies[row, 1:] = (log_z - mean).to(entropies.dtype)
    return TokenScores(logprobs, entropies)


def token_log_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log rho [B, T], clamped to +-`MAX_LOG_RATIO`; 0 and without gradient off the mask.

    Off the mask nothing is read: infinities there reach neither a value nor a gradient.
    """
    difference = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def check_bounds(name: str, low: float, high: float) -> None:
    """Raises UserError unless 0 <= low <= 1 and high >= 0: bounds of a ratio around 1."""
    if not 0 <= low <= 1 or not high >= 0:
        raise UserError(f"{name} needs 0 <= low <= 1 and high >= 0, not low={low} high={high}")


class Clipped(NamedTuple):
    """PPO's pessimistic choice between a ratio and the clipped one."""

    losses: Tensor
    """max(-A rho, -A clip(rho)), [B, T]."""
    outside: Tensor
    """bool [B, T]: where the clipped branch won."""


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Clipped:
    """PPO, 1707.06347, equation 7, of any ratio that broadcasts with the advantages [B, T]."""
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - low, 1 + high)
    outside = bounded > plain
    # `where`, not `max`: at a tie the whole gradient belongs to the unclipped branch.
    return Clipped(torch.where(outside, bounded, plain), outside)


def clip_metrics(
    log_ratio: Tensor, outside: Tensor, advantages: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """What every clipped surrogate reports, as sums over masked tokens.

    `clip_high_share`, `clip_low_share`: tokens of good and of bad actions whose ratio was clipped.
    `ppo_kl`: -log rho, the k1 estimate of KL(old || policy).
    """
    with torch.no_grad():
        return {
            "clip_high_share": (outside & (advantages > 0) & mask).sum(),
            "clip_low_share": (outside & (advantages < 0) & mask).sum(),
            "ppo_kl": (-log_ratio * mask).sum(),
        }


@dataclass(frozen=True, slots=True)
class Clip:
    """PPO's clipped surrogate (1707.06347, equation 7), with asymmetric bounds and a dual clip.

    L = max(-A rho, -A clip(rho, 1 - low, 1 + high)); for A < 0 and a `dual` c, min(L, -c A)
    (1912.09729, equation 5). DAPO's clip-higher is high = 0.28.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    """Bound c > 1 on the ratio of bad actions; None leaves it open."""

    def __post_init__(self) -> None:
        check_bounds("loss clip", self.low, self.high)
        if self.dual is not None and self.dual <= 1 + self.high:
            raise UserError(f"clip.dual is above 1 + high, not {self.dual}; the usual value is 3")

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metrics of `clip_metrics`, and `dual_share` with a dual clip."""
        log_ratio = token_log_ratios(logprobs, old_logprobs, mask)
        losses, outside = clipped(log_ratio.exp(), advantages, self.low, self.high)
        metrics = clip_metrics(log_ratio, outside, advantages, mask)
        if self.dual is not None:
            ceiling = -self.dual * advantages
            capped = (advantages < 0) & (losses > ceiling)
            losses = torch.where(capped, ceiling, losses)
            metrics["dual_share"] = (capped & mask).sum()
        return losses, metrics


AggregateMode = Literal[
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Per-token losses -> a scalar, by global counts.

    Every mode gives a token a fixed weight, so the sum over micro-batches or ranks is the whole
    batch's loss. A sequence is a trajectory; fully masked ones do not count.

    | mode | weight of a token | used by |
    |---|---|---|
    | token-mean | 1 / N_tokens | DAPO, verl |
    | token-sum | 1 | |
    | seq-mean-token-sum | 1 / N_sequences | |
    | seq-mean-token-mean | 1 / (N_sequences trained_tokens) | GRPO as published, GSPO |
    | seq-mean-token-sum-norm | 1 / (N_sequences L) | Dr. GRPO |
    """

    mode: AggregateMode = "token-mean"
    length: int | None = None
    """Dr. GRPO's constant L, the generation limit in tokens; only for the norm mode."""

    def __post_init__(self) -> None:
        if (self.mode == "seq-mean-token-sum-norm") != (self.length is not None):
            raise UserError(
                "aggregate.length (the generation limit) belongs to mode seq-mean-token-sum-norm; "
                "set both or neither"
            )
        if self.length is not None and self.length < 1:
            raise UserError(f"aggregate.length is a number of tokens, not {self.length}")

    def __call__(self, losses: Tensor, batch: Batch) -> Tensor:
        """The scalar share of `batch` (or of a micro-batch of it) in the whole batch's loss."""
        # Off the mask a loss may be anything, even infinite, and must not reach the sum.
        kept = losses.masked_fill(~batch.mask, 0.0)
        n_tokens, n_sequences = max(batch.n_tokens, 1), max(batch.n_sequences, 1)
        match self.mode:
            case "token-mean":
                return kept.sum() / n_tokens
            case "token-sum":
                return kept.sum()
            case "seq-mean-token-mean":
                return (kept.sum(1) / batch.trained.clamp(min=1)).sum() / n_sequences
            case "seq-mean-token-sum":
                return kept.sum() / n_sequences
            case "seq-mean-token-sum-norm":
                return kept.sum() / n_sequences / (self.length or 1)


__all__ = [
    "MAX_LOG_RATIO",
    "Aggregate",
    "AggregateMode",
    "Clip",
    "Clipped",
    "TokenScores",
    "check_bounds",
    "clip_metrics",
    "clipped",
    "predictors",
    "token_log_ratios",
    "token_logprobs",
]
