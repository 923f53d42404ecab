"""AEPO's advantage (2510.14545, section 4.2): tokens that were uncertain when sampled weigh more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.advantage import GRPO, Outcome
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx

EPS = 1e-8
"""Added to the deviation: a batch of equal entropies changes nothing."""


@dataclass(frozen=True, slots=True)
class EntropyAware:
    """A_t = A (1 + weight z_t), z_t = (H_t - mean H) / std H over the step's trained tokens.

    H is the entropy in nats that the engine recorded while sampling, the behaviour policy's, so no
    gradient can flow through it; the deviation is the sample's. Tokens without a recorded entropy
    (forced ones) keep A. The weights of the others average 1 over the batch, not over a row.
    """

    weight: float = 0.2
    """The released code's."""
    base: Outcome = GRPO
    """Makes A; default: GRPO."""

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask. Raises UserError when no entropy was recorded."""
        if batch.entropies is None:
            raise UserError(
                "algo.advantage=aepo reads the entropies of the rollouts and there are none; set "
                "rollout.plan.name=aepo"
            )
        return self.base(batch, ctx) * (1 + self.weight * standardised(batch.entropies, batch.mask))


def standardised(entropies: Tensor, mask: Tensor) -> Tensor:
    """z [B, T] over the masked tokens that have one; 0 elsewhere, and for fewer than two."""
    known = mask & ~entropies.isnan()
    values = entropies[known].double()
    z = torch.zeros_like(entropies)
    if len(values) > 1:
        z[known] = ((values - values.mean()) / (values.std(correction=1) + EPS)).to(z.dtype)
    return z


__all__ = ["EntropyAware", "standardised"]
