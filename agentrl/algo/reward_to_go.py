"""REINFORCE++ (2501.03262): discounted reward-to-go per token, normalised over the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.algo.actions import Actions, discounted, earned
from agentrl.algo.advantage import whitened
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class RewardToGo:
    """A_t = sum over k >= t of gamma^(k - t) r_k over the policy's tokens, then whitened.

    The outcome is earned at the trajectory's last action; a KL penalty inside the reward
    (`algo.reward_kl`, the paper's form) comes in through the token rewards.
    """

    gamma: float = 1.0
    """Discount per token of the policy."""
    whiten: bool = True
    """Normalise over all tokens with mask 1, as the paper does."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise UserError(f"advantage.gamma lies in 0..1, not {self.gamma}; the usual value is 1")

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        actions = Actions.of(batch, batch.mask)
        rewards = earned(batch, actions, batch.mask)
        advantages = actions.unpack(discounted(rewards, self.gamma), batch.mask)
        if self.whiten:
            advantages = whitened(advantages, batch.mask)
        return advantages.float()


__all__ = ["RewardToGo"]
