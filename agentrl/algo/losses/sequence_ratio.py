"""One ratio per row: the product of its tokens' ratios, or their geometric mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from agentrl.algo.loss import MAX_LOG_RATIO, check_bounds, clip_metrics, clipped, token_log_ratios


def row_log_ratios(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, mean: bool, cap: float = MAX_LOG_RATIO
) -> Tensor:
    """Sum or mean over a row's masked tokens of log rho, [B, 1], clamped to [-20, cap].

    0 for a row without such tokens. A token's own log-ratio is not clamped before the sum.
    """
    difference = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    total = difference.sum(1, keepdim=True)
    if mean:
        total = total / mask.sum(1, keepdim=True).clamp(min=1)
    return total.clamp(-MAX_LOG_RATIO, cap)


@dataclass(frozen=True, slots=True)
class SequenceRatio:
    """PPO's clip on pi(y) / pi_old(y), a row as one action (AdaptThink, 2505.13417, section 4).

    Every token of the row carries the row's loss, so aggregate with `seq-mean-token-mean`: that is
    the papers' plain mean over sequences. A trajectory of several rows has one ratio per row, each
    weighing by its tokens: the factorisation does not go across contexts.

    AdaptThink takes its first token's denominator from the forcing distribution (log 0.5), which
    FORCED tokens carry anyway. SPC's offline PPO (2504.19162, code) is `mean: true` with
    `offpolicy.old=behaviour`, the sampler's logprobs being its reference's, beside
    `supervised` with coefficient 0.15.
    """

    low: float = 0.2
    high: float = 0.2
    mean: bool = False
    """False: the product of the token ratios, as the paper writes it. True: their geometric mean,
    exp(mean logp - mean logp_old), as AdaptThink's and SPC's code have it; long rows need it."""

    def __post_init__(self) -> None:
        check_bounds("loss sequence_ratio", self.low, self.high)

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metrics of `clip_metrics`, the shares counting tokens of clipped rows."""
        log_ratio = row_log_ratios(logprobs, old_logprobs, mask, mean=self.mean)
        losses, outside = clipped(log_ratio.exp(), advantages, self.low, self.high)
        tokens = token_log_ratios(logprobs, old_logprobs, mask)
        return losses, clip_metrics(tokens, outside, advantages, mask)


__all__ = ["SequenceRatio", "row_log_ratios"]
