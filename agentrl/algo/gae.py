"""Generalised advantage estimation with a critic (1506.02438, equation 16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentrl.algo.actions import Actions, earned
from agentrl.algo.advantage import whitened
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx, Estimate, Need


@dataclass(frozen=True, slots=True)
class GAE:
    """delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1}, right to left.

    The outcome is earned at the trajectory's last action. "Next" is the policy's next token:
    value and accumulator are carried unchanged across observations and from row to row of one
    trajectory. After the last action nothing follows, for truncated trajectories too, as is usual
    with language models. The critic's targets are A + V before whitening.
    """

    gamma: float = 1.0
    """Discount per token; 1 as for all of Open-Reasoner-Zero and ReTool."""
    lam: float = 1.0
    """1: Monte Carlo returns; less trusts the critic more."""
    whiten: bool = True
    """Normalise the advantages over all tokens with mask 1."""
    needs: ClassVar[frozenset[Need]] = frozenset({"critic"})

    def __post_init__(self) -> None:
        for name, value in (("gamma", self.gamma), ("lam", self.lam)):
            if not 0 <= value <= 1:
                raise UserError(f"advantage.{name} lies in 0..1, not {value}; the usual value is 1")

    def __call__(self, batch: Batch, ctx: Ctx) -> Estimate:
        """Advantages and returns f32 [B, T]. Raises UserError for a batch without values."""
        if batch.values is None:
            raise UserError(
                "advantage gae needs a critic's values; configure a critic, or use a critic-free "
                "advantage such as outcome"
            )
        actions = Actions.of(batch, batch.mask)
        values = actions.pack(batch.values.double())
        packed = self.recursion(earned(batch, actions, batch.mask), values)
        advantages = actions.unpack(packed, batch.mask)
        returns = actions.unpack(packed + values, batch.mask)
        if self.whiten:
            advantages = whitened(advantages, batch.mask)
        return Estimate(advantages.float(), returns.float())

    def recursion(self, rewards: Tensor, values: Tensor) -> Tensor:
        """[N, L] advantages from rewards and values [N, L], both 0 after a row's last action."""
        advantages = torch.zeros_like(values)
        next_value = running = values.new_zeros(len(values))
        for step in range(values.shape[1] - 1, -1, -1):
            delta = rewards[:, step] + self.gamma * next_value - values[:, step]
            running = delta + self.gamma * self.lam * running
            next_value = values[:, step]
            advantages[:, step] = running
        return advantages


__all__ = ["GAE"]
