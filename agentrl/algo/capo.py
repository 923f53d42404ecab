"""CAPO (2508.02298): token rewards, normalised over all tokens of the group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.credit import sampled, token_rewards
from agentrl.algo.groups import check_ddof, group_normal, group_size
from agentrl.algo.tensors import distinct
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class CAPO:
    """A_t = (R_t - mean) / (deviation + eps) with R_t = outcome + what token t itself earned.

    CAPO's shaper gives C for a right answer as the outcome and -P at the tokens of wrong steps.
    Mean and deviation are over every token the policy wrote in the group. The paper's exact
    normalisation was not to be had; this is its description taken literally. A group of one
    trajectory keeps its raw token rewards, a group of equal ones gets exactly 0.
    """

    ddof: int = 1
    """1: sample deviation; 0: population."""
    eps: float = 1e-6
    """Added to the deviation."""

    def __post_init__(self) -> None:
        check_ddof(self.ddof)

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        written = sampled(batch)
        rewards = token_rewards(batch, written) + batch.rewards.double()[:, None]
        groups = distinct(batch.group_index).inverse[:, None].expand_as(rewards)
        found = Trajectories.of_batch(batch)
        siblings = group_size(found.outcomes, found.groups)[found.of, None].expand_as(rewards)
        normal = group_normal(rewards[written], groups[written], ddof=self.ddof, eps=self.eps)
        advantages = torch.zeros_like(rewards)
        advantages[written] = torch.where(siblings[written] == 1, rewards[written], normal)
        return (advantages * batch.mask).float()


__all__ = ["CAPO"]
