"""Foreign answers inside a group: their probability is shaped, everything else is clipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.loss import check_bounds, clip_metrics, clipped, token_log_ratios
from agentrl.errors import UserError


@dataclass(frozen=True, slots=True)
class Shaped:
    """PPO's clip, and -A f(pi), f(p) = p / (p + gamma), on tokens that were put there for certain
    (policy shaping: LUFFY, 2504.14945, section 3; RGR-GRPO uses it on refined answers).

    Such tokens have the denominator log 1 = 0: a plan declares them FORCED with probability 1, as
    LUFFY sets its expert's. Their ratio is pi itself, never clipped; f lifts the slope of the rare
    ones: d L / d logp = -A gamma p / (p + gamma)^2.
    """

    low: float = 0.2
    high: float = 0.2
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_bounds("loss shaped", self.low, self.high)
        if not self.gamma > 0:
            raise UserError(f"shaped.gamma is above 0, not {self.gamma}; the papers' is 0.1")

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metrics of `clip_metrics` over the other tokens, and `shaped_share`, the
        tokens put there for certain."""
        certain = (old_logprobs == 0) & mask
        log_ratio = token_log_ratios(logprobs, old_logprobs, mask)
        ratio = log_ratio.exp()
        losses, outside = clipped(ratio, advantages, self.low, self.high)
        shaped = -advantages * ratio / (ratio + self.gamma)
        metrics = clip_metrics(
            log_ratio.masked_fill(certain, 0.0), outside & ~certain, advantages, mask
        )
        return torch.where(certain, shaped, losses), metrics | {"shaped_share": certain.sum()}


__all__ = ["Shaped"]
