"""A method in one file: GRPO with the group's median in the middle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class MedianGRPO:
    """A_i = (r_i - median r) / (mean |r - median r| + eps) within the group."""

    eps: float = 1e-6

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        scalars = torch.zeros_like(batch.rewards)
        for group in batch.group_index.unique():
            members = batch.group_index == group
            centred = batch.rewards[members] - batch.rewards[members].quantile(0.5)
            scalars[members] = centred / (centred.abs().mean() + self.eps)
        return scalars[:, None] * batch.mask
