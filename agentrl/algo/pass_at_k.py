"""Pass@k-GRPO (2503.19595): train the best of a group, by how much it beats the second best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.groups import check_ddof, group_deviation, group_size
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class PassAtK:
    """The group is the k samples: A = max r - max of the others, which is 0 for all but the best.

    This is the paper's leave-one-out estimate of the gradient of E[max r]. Where two are
    best, nobody gets anything. A group of one keeps its raw reward.
    """

    scaled: bool = False
    """Divide by the group's deviation, as verl does by default and the paper's estimate does not."""
    ddof: int = 1
    """1: sample deviation; 0: population."""
    eps: float = 1e-6
    """Added to the deviation."""

    def __post_init__(self) -> None:
        check_ddof(self.ddof)

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        found = Trajectories.of_batch(batch)
        scalars = self.scalars(found.returns, found.groups)
        return found.spread(scalars, batch.mask).float()

    def scalars(self, rewards: Tensor, groups: Tensor) -> Tensor:
        """f64 [N] from rewards f64 [N] and groups i64 [N] numbered from 0."""
        advantages = torch.zeros_like(rewards)
        # Stable: by reward inside groups, groups together. The last two of a group decide.
        order = rewards.argsort(stable=True)
        order = order[groups[order].argsort(stable=True)]
        ordered = groups[order]
        last = torch.ones_like(ordered, dtype=torch.bool)
        last[:-1] = ordered[1:] != ordered[:-1]
        best = order[last]
        second = order[(last.nonzero().flatten() - 1).clamp(min=0)]
        sizes = group_size(rewards, groups)
        ahead = torch.where(sizes[best] > 1, rewards[best] - rewards[second], rewards[best])
        advantages[best] = ahead
        if not self.scaled:
            return advantages
        return advantages / (group_deviation(rewards, groups, self.ddof) + self.eps)


__all__ = ["PassAtK"]
