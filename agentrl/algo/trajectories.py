"""A batch by trajectory instead of by row: what statistics over siblings are taken from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.algo.credit import sampled, token_rewards
from agentrl.algo.tensors import Distinct, distinct
from agentrl.algo.types import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Trajectories:
    """N trajectories in ascending order of `trajectory_index`; excluded ones are among them."""

    of: Tensor
    """i64 [B]: each row's trajectory, 0..N-1."""
    groups: Tensor
    """i64 [N]: 0..n_groups-1; siblings share it."""
    outcomes: Tensor
    """f64 [N]: the shaped scalar rewards."""
    returns: Tensor
    """f64 [N]: the outcome and everything earned token by token."""
    lengths: Tensor
    """f64 [N]: tokens the policy wrote."""
    correct: Tensor
    """bool [N]: full score in the environment's own reward."""

    @classmethod
    def of_batch(cls, batch: Batch) -> Trajectories:
        """The trajectories of a step's batch."""
        of = distinct(batch.trajectory_index)
        outcomes = _one_each(batch.rewards.double(), of)
        returns = outcomes
        if batch.token_rewards is not None:
            per_row = token_rewards(batch, sampled(batch)).sum(1)
            returns = outcomes.index_add(0, of.inverse, per_row)
        return cls(
            of=of.inverse,
            groups=distinct(_one_each(batch.group_index, of)).inverse,
            outcomes=outcomes,
            returns=returns,
            lengths=_one_each(batch.lengths.double(), of),
            correct=_one_each(batch.correct, of),
        )

    def one_each(self, values: Tensor) -> Tensor:
        """[N] from values [B] that the rows of one trajectory share."""
        return _one_each(values, Distinct(len(self.groups), self.of))

    def spread(self, values: Tensor, mask: Tensor) -> Tensor:
        """One value per trajectory [N] -> every token of `mask` [B, T], 0 elsewhere."""
        return values[self.of, None] * mask


def _one_each(values: Tensor, of: Distinct) -> Tensor:
    # Rows of one trajectory carry the same value, so whichever is written last is right.
    return values.new_zeros(of.n).index_put((of.inverse,), values)


__all__ = ["Trajectories"]
