"""Which tokens are the policy's, and what each of them earned beside the outcome."""

from __future__ import annotations

import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.transcript import SAMPLED


def sampled(batch: Batch) -> Tensor:
    """bool [B, T]: tokens the policy wrote, excluded trajectories' included.

    Statistics read this: an excluded trajectory trains no token and still counts.
    """
    kinds = torch.tensor([int(origin) for origin in SAMPLED], device=batch.origins.device)
    return torch.isin(batch.origins, kinds.to(batch.origins.dtype)) & batch.attention_mask


def token_rewards(batch: Batch, tokens: Tensor) -> Tensor:
    """f64 [B, T]: what each of `tokens` earned beside the outcome.

    A reward that arrives with an observation belongs to the action before it in its row; before
    the first there is nothing to reward.
    """
    if batch.token_rewards is None:
        return torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    actor = torch.where(tokens, columns, -1).cummax(1).values
    earned = batch.token_rewards.double() * (batch.attention_mask & (actor >= 0))
    return torch.zeros_like(earned).scatter_add(1, actor.clamp(min=0), earned)


__all__ = ["sampled", "token_rewards"]
