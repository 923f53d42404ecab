"""Small differentiable terms beside the policy loss: KL to a reference, entropy, supervision.

A term returns its own aggregated, weighted scalar. Its metrics are already divided by its global
count, so that a learner adds them over micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agentrl.algo.loss import MAX_LOG_RATIO
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.transcript import Origin

KLEstimator = Literal["k1", "k2", "k3", "k3+"]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Per-token estimate of KL(policy || reference), shape of its inputs.

    Schulman, "Approximating KL divergence" (2020): with x = logp - ref, k1 = x, k2 = x^2 / 2,
    k3 = exp(-x) + x - 1. `k3+` has k3's value and k2's gradient, the one that is the gradient
    of the reverse KL.
    """
    x = (logprobs - ref_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return x
    k2 = x.square() / 2
    if estimator == "k2":
        return k2
    k3 = (torch.exp(-x) + x - 1).clamp(-10, 10)
    return k3 if estimator == "k3" else k2 - k2.detach() + k3.detach()


@dataclass(frozen=True, slots=True)
class KL:
    """coef * mean over policy tokens of the KL estimate; needs `batch.ref_logprobs`."""

    coef: float
    estimator: KLEstimator = "k3"

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Raises UserError when the batch carries no reference logprobs."""
        if batch.ref_logprobs is None:
            raise UserError("a KL term needs a reference model; set learner.reference=true")
        values = kl_estimate(output.logprobs, batch.ref_logprobs, self.estimator)
        mean = values.masked_fill(~batch.mask, 0.0).sum() / max(output.n_tokens, 1)
        return self.coef * mean, {"kl_ref": mean.detach()}


@dataclass(frozen=True, slots=True)
class Entropy:
    """-coef * mean entropy of the policy's tokens: a bonus that is minimised with the loss."""

    coef: float

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Exact entropies of the sampled-from distributions, not an estimate from samples."""
        mean = output.entropies.masked_fill(~batch.mask, 0.0).sum() / max(output.n_tokens, 1)
        return -self.coef * mean, {"entropy_bonus": self.coef * mean.detach()}


@dataclass(frozen=True, slots=True)
class Supervised:
    """coef * cross-entropy on the tokens of one origin, by default expert text."""

    coef: float = 1.0
    origin: Origin = Origin.DEMO

    def tokens(self, batch: Batch) -> Tensor:
        """The origin's tokens that have a context."""
        wanted = (batch.origins == int(self.origin)) & batch.attention_mask
        wanted[:, 0] = False
        return wanted

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Perplexity is exp of the metric `sft_loss`."""
        kept = output.logprobs.masked_fill(~self.tokens(batch), 0.0)
        mean = -kept.sum() / max(output.n_tokens, 1)
        return self.coef * mean, {"sft_loss": mean.detach()}


__all__ = ["KL", "Entropy", "KLEstimator", "Supervised", "kl_estimate"]
