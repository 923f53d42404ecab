"""OREAL's advantages (2502.06781): leave-one-out on right or wrong, weighed token by token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.actions import Actions
from agentrl.algo.advantage import Outcome
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class OREAL:
    """A_t = importance_t * (r - mean of the siblings' r), r = +1 for a correct trajectory, else -1.

    The importance comes from a token reward model's scores, one logit per token, that a shaper
    hands over as token rewards: with s_t the mean score of the policy's tokens up to t and
    p = sigmoid(s_t), clip((p - 0.5) / 0.5, 0, 1) in correct trajectories and
    clip((0.5 - p) / 0.5, 0, 1) in others. Without scores every token weighs 1, the paper's
    ablation. The shaped scalar is not read. Training that reward model is not done here.
    """

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        found = Trajectories.of_batch(batch)
        signs = torch.where(found.correct, 1.0, -1.0).double()
        scalars = _LEAVE_ONE_OUT.scalars(signs, found.groups, found.lengths)
        advantages = found.spread(scalars, batch.mask)
        if batch.token_rewards is None:
            return advantages.float()
        actions = Actions.of(batch, batch.mask)
        scores = actions.pack(batch.token_rewards.double()).cumsum(1)
        so_far = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        weights = importance(scores / so_far, found.correct[:, None])
        return (advantages * actions.unpack(weights, batch.mask)).float()


def importance(scores: Tensor, correct: Tensor) -> Tensor:
    """Weights in 0..1, shape of the mean scores; `correct` is broadcast."""
    lean = (scores.sigmoid() - 0.5) / 0.5
    return torch.where(correct, lean, -lean).clamp(0, 1)


_LEAVE_ONE_OUT = Outcome(center="loo", scale="none")

__all__ = ["OREAL", "importance"]
