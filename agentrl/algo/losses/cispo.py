"""CISPO: the importance weight is clipped, the token never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.loss import check_bounds, token_log_ratios


@dataclass(frozen=True, slots=True)
class CISPO:
    """L = -sg(clip(rho, 1 - low, 1 + high)) A logp (MiniMax-M1, 2506.13585, equations 4 and 5).

    Every token keeps the gradient -A clip(rho). Usually with `token-mean`. The value is no
    surrogate of the return: only its gradient means something.
    """

    low: float = 1.0
    """1 leaves the weight without a lower bound, as the paper does."""
    high: float = 4.0
    """The paper tunes it and does not state it; 4 is ScaleRL's cap of 5 on the ratio."""

    def __post_init__(self) -> None:
        check_bounds("loss cispo", self.low, self.high)

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metrics are sums over masked tokens.

        `clip_high_share`, `clip_low_share`: tokens whose weight was clipped, whatever their
        advantage. `ppo_kl`: -log rho.
        """
        with torch.no_grad():
            log_ratio = token_log_ratios(logprobs, old_logprobs, mask)
            ratio = log_ratio.exp()
            weights = ratio.clamp(1 - self.low, 1 + self.high)
            metrics = {
                "clip_high_share": ((ratio > weights) & mask).sum(),
                "clip_low_share": ((ratio < weights) & mask).sum(),
                "ppo_kl": (-log_ratio * mask).sum(),
            }
        return -weights * advantages * logprobs.masked_fill(~mask, 0.0), metrics


__all__ = ["CISPO"]
