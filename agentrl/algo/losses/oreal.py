"""OREAL: behaviour cloning of what succeeded, a damped policy gradient on what failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.loss import token_log_ratios
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class OREAL:
    """-A logp where A > 0, -`negative` A rho elsewhere (2502.06781, section 2; constants from the code).

    The sign of the advantage splits the tokens; token importances belong into the advantages. Use
    `token-mean`: `weights` then turns the one mean over all tokens into the paper's two, one over
    the tokens of each sign.
    """

    negative: float = 0.5
    """Factor on failures."""

    def __post_init__(self) -> None:
        if not self.negative >= 0:
            raise UserError(
                f"oreal.negative is at least 0, not {self.negative}; the paper's is 0.5"
            )

    def weights(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T]: N_tokens / N_sign at each token, over the optimiser step's batch.

        A row counts whole, by the sign of its advantages; one without any has weight 0. Raises
        ValueError when the batch has no advantages yet.
        """
        if batch.advantages is None:
            raise ValueError("the batch has no advantages yet")
        weights = torch.zeros_like(batch.advantages)
        for rows in ((batch.advantages > 0).any(1), (batch.advantages < 0).any(1)):
            chosen = batch.mask & rows[:, None]
            weights[chosen] = batch.n_tokens / max(int(chosen.sum()), 1)
        return weights

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses [B, T]; metrics are sums over masked tokens.

        `positive_share`: tokens with A > 0. `ppo_kl`: -log rho.
        """
        log_ratio = token_log_ratios(logprobs, old_logprobs, mask)
        positive = advantages > 0
        cloned = -advantages * logprobs.masked_fill(~mask, 0.0)
        damped = -self.negative * advantages * log_ratio.exp()
        with torch.no_grad():
            metrics = {
                "positive_share": (positive & mask).sum(),
                "ppo_kl": (-log_ratio * mask).sum(),
            }
        return torch.where(positive, cloned, damped), metrics


__all__ = ["OREAL"]
