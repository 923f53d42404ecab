"""GSPO: the clip acts on a row's geometric-mean ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from agentrl.algo.loss import check_bounds, clip_metrics, clipped, token_log_ratios
from agentrl.algo.losses.sequence_ratio import row_log_ratios

MAX_LOG_SEQUENCE_RATIO = 10.0
"""log s is capped here before `exp`, as in verl."""


@dataclass(frozen=True, slots=True)
class GSPO:
    """L = -min(s A, clip(s, 1 - low, 1 + high) A), s = exp(mean over the row of logp - logp_old)
    (2507.18071, equations 5 and 7), to be aggregated with `seq-mean-token-mean`.

    `level` token is GSPO-token (equations 13 and 14), s_t = sg(s) exp(logp_t - sg(logp_t)): equal
    to the sequence form, gradient included, as long as a row's advantages are equal, and what
    advantages that differ within a row need. A trajectory of several rows has one ratio per row, each
    weighing by its tokens: the factorisation does not go across contexts.
    """

    low: float = 3e-4
    high: float = 4e-4
    level: Literal["sequence", "token"] = "sequence"

    def __post_init__(self) -> None:
        check_bounds("loss gspo", self.low, self.high)

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metrics of `clip_metrics`, the shares counting tokens of clipped rows."""
        log_ratio = row_log_ratios(
            logprobs, old_logprobs, mask, mean=True, cap=MAX_LOG_SEQUENCE_RATIO
        )
        if self.level == "token":
            kept = logprobs.masked_fill(~mask, 0.0)
            log_ratio = log_ratio.detach() + (kept - kept.detach())
        losses, outside = clipped(log_ratio.exp(), advantages, self.low, self.high)
        tokens = token_log_ratios(logprobs, old_logprobs, mask)
        return losses, clip_metrics(tokens, outside, advantages, mask)


__all__ = ["GSPO", "MAX_LOG_SEQUENCE_RATIO"]
