"""GPPO: clip-higher's value, with a bounded gradient where clip-higher has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.loss import check_bounds, clip_metrics, clipped, token_log_ratios
from agentrl.errors import UserError


@dataclass(frozen=True, slots=True)
class GPPO:
    """Gradient-preserving clipping (Klear-Reasoner, 2508.07629, section on GPPO).

    L = -min(rho A, clip(rho, (1 - low) rho / sg(rho), (1 + high) rho / sg(rho)) A). The value is
    exactly that of `Clip` with the same bounds and no dual clip; d L / d logp is -A (1 + high)
    where rho > 1 + high and A > 0, -A (1 - low) where rho < 1 - low and A < 0, else -A rho.
    """

    low: float = 0.2
    high: float = 0.28
    low_scale: float = 1.0
    """Factor on the gradient of tokens below the bounds (CE-GPPO's beta_1, 2509.20712); never on
    the value. 0 is PPO's clip."""
    high_scale: float = 1.0
    """The same above the bounds (CE-GPPO's beta_2)."""

    def __post_init__(self) -> None:
        check_bounds("loss gppo", self.low, self.high)
        if not (self.low_scale >= 0 and self.high_scale >= 0):
            raise UserError(
                f"gppo's low_scale and high_scale are at least 0, not {self.low_scale} and "
                f"{self.high_scale}; the paper's are 1"
            )

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metrics of `clip_metrics`."""
        log_ratio = token_log_ratios(logprobs, old_logprobs, mask)
        losses, outside = clipped(log_ratio.exp(), advantages, self.low, self.high)
        # A clipped loss carries no gradient of its own, so its value is also its slope.
        scales = torch.where(advantages > 0, self.high_scale, self.low_scale)
        slopes = (losses.detach() * scales * outside).masked_fill(~mask, 0.0)
        kept = logprobs.masked_fill(~mask, 0.0)
        metrics = clip_metrics(log_ratio, outside, advantages, mask)
        return losses + slopes * (kept - kept.detach()), metrics


__all__ = ["GPPO"]
