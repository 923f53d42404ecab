"""DeepSearch's advantages (2509.25454): the search tree's value of each token against the leaves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.algo.groups import group_deviation, group_size, group_sum
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class DeepSearch:
    """A_t = Q_t - mean of the siblings' final scores, without a deviation.

    Q_t, the value of the tree's node that token t belongs to, comes as the token reward (the plan
    squashes inner nodes by tanh); the final scores are the scalar rewards. A group of one has
    centre 0.
    """

    scaled: bool = False
    """Divide by the population deviation of the siblings' final scores, as one release does."""
    eps: float = 1e-6
    """Added to that deviation."""

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask. Raises UserError for a batch without token rewards."""
        if batch.token_rewards is None:
            raise UserError(
                "advantage deepsearch reads node values from the token rewards and there are none; "
                "use a tree-search plan, or advantage outcome"
            )
        found = Trajectories.of_batch(batch)
        sizes = group_size(found.outcomes, found.groups)
        centers = group_sum(found.outcomes, found.groups) / sizes
        centers = centers.masked_fill(sizes == 1, 0.0)
        advantages = batch.token_rewards.double() - centers[found.of, None]
        if self.scaled:
            deviation = group_deviation(found.outcomes, found.groups, 0)
            advantages = advantages / (deviation + self.eps)[found.of, None]
        return (advantages * batch.mask).float()


__all__ = ["DeepSearch"]
