"""TEA: an entropy bonus on the tokens whose logprob and advantage go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.ramp import Ramp, check_coef, value_at
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.errors import UserError
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class TEA:
    """-coef sum_t w_t H_t, w = softmax(cov / tau) over the batch's policy tokens T, capped at
    cap / |T|, cov_t = (logp_t - mean logp) (A_t - mean A) (Light-IF, 2508.03178, TEA-RL).

    The paper multiplies by |T|, which makes the term grow with the length of the answers; here the
    capped weights are divided by their sum instead, a weighted mean. The means, the softmax and
    the cap are taken once, over the optimiser step's whole batch. tau, cap and coef are those of
    an unofficial implementation.
    """

    coef: float | Ramp = 0.05
    tau: float = 1.0
    """Temperature of the softmax over covariances."""
    cap: float = 100.0
    """A token's weight is at most this over |T|."""
    times_tokens: bool = False
    """True: the paper's factor |T|, the capped weights not renormalised."""

    def __post_init__(self) -> None:
        check_coef("tea.coef", self.coef)
        if not (self.tau > 0 and self.cap > 0):
            raise UserError(f"tea.tau and tea.cap are above 0, not {self.tau} and {self.cap}")

    def weights(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T]: w, zero off the mask. Raises ValueError without logprobs and advantages."""
        if batch.old_logprobs is None or batch.advantages is None:
            raise ValueError("TEA's weights need the batch's old logprobs and advantages")
        result = torch.zeros_like(batch.old_logprobs)
        logprobs = batch.old_logprobs[batch.mask].double()
        advantages = batch.advantages[batch.mask].double()
        n = len(logprobs)
        if n == 0:
            return result
        covariances = (logprobs - logprobs.mean()) * (advantages - advantages.mean())
        weights = torch.softmax(covariances / self.tau, 0).clamp(max=self.cap / n)
        weights = weights * n if self.times_tokens else weights / weights.sum()
        result[batch.mask] = weights.to(result.dtype)
        return result

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metric `tea_entropy`, sum_t w_t H_t. Raises ValueError without `output.weights`."""
        if output.weights is None:
            raise ValueError("TEA needs its weights over the whole batch")
        entropies = output.entropies.masked_fill(~batch.mask, 0.0)
        weighted = (output.weights * entropies).sum()
        return -value_at(self.coef, ctx.step) * weighted, {"tea_entropy": weighted.detach()}


__all__ = ["TEA"]
