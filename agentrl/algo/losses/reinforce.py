"""REINFORCE with an importance ratio and no clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.loss import token_log_ratios


@dataclass(frozen=True, slots=True)
class Reinforce:
    """L = -A rho (ReLIFT, 2506.07527, code); on policy its gradient is -A grad logp.

    Nothing bounds a stale token's ratio but the clamp at exp(20): use one optimiser step per batch,
    or an off-policy correction.
    """

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metric `ppo_kl`, the sum over masked tokens of -log rho."""
        log_ratio = token_log_ratios(logprobs, old_logprobs, mask)
        with torch.no_grad():
            metrics = {"ppo_kl": (-log_ratio * mask).sum()}
        return -advantages * log_ratio.exp(), metrics


__all__ = ["Reinforce"]
