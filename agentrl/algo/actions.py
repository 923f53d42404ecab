"""The policy's tokens of each trajectory, in the order they were written.

Observations are squeezed out and the rows of a trajectory joined, so that "the next action" is the
next column: a recursion over this matrix carries its state unchanged across observations, and from
one row of a trajectory to the next, because a new context is as much the environment's doing as an
observation is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.credit import token_rewards
from agentrl.algo.tensors import distinct
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Actions:
    """Some tokens of B rows, laid out as N trajectories of at most L actions."""

    rows: Tensor
    """i64 [n]: where each token stands in the batch."""
    columns: Tensor
    """i64 [n]."""
    trajectories: Tensor
    """i64 [n]: where it stands here, 0..N-1 in ascending order of `trajectory_index`."""
    steps: Tensor
    """i64 [n]: 0..L-1, actions before it in its trajectory."""
    counts: Tensor
    """i64 [N]: actions of each trajectory."""

    @classmethod
    def of(cls, batch: Batch, tokens: Tensor) -> Actions:
        """Lay out `tokens` (bool [B, T]); rows of a trajectory follow each other as in the batch."""
        numbered = distinct(batch.trajectory_index)
        order = numbered.inverse.argsort(stable=True)
        places = tokens[order].nonzero()
        rows, columns = order[places[:, 0]], places[:, 1]
        trajectories = numbered.inverse[rows]
        counts = torch.bincount(trajectories, minlength=numbered.n)
        starts = counts.cumsum(0) - counts
        steps = torch.arange(len(rows), device=rows.device) - starts[trajectories]
        return cls(rows, columns, trajectories, steps, counts)

    @property
    def length(self) -> int:
        """L: the most actions of any trajectory."""
        return int(self.counts.max()) if len(self.counts) else 0

    def pack(self, values: Tensor) -> Tensor:
        """[B, T] -> [N, L], 0 after a trajectory's last action."""
        packed = values.new_zeros(len(self.counts), self.length)
        packed[self.trajectories, self.steps] = values[self.rows, self.columns]
        return packed

    def unpack(self, packed: Tensor, like: Tensor) -> Tensor:
        """[N, L] -> the shape [B, T] of `like`, 0 at every other token."""
        values = packed.new_zeros(like.shape)
        values[self.rows, self.columns] = packed[self.trajectories, self.steps]
        return values


def earned(batch: Batch, actions: Actions, tokens: Tensor) -> Tensor:
    """f64 [N, L]: token rewards, and at each trajectory's last action its outcome reward too."""
    rewards = actions.pack(token_rewards(batch, tokens))
    acted = (actions.counts > 0).nonzero().flatten()
    outcomes = Trajectories.of_batch(batch).outcomes
    rewards[acted, actions.counts[acted] - 1] += outcomes[acted]
    return rewards


def discounted(rewards: Tensor, gamma: float) -> Tensor:
    """[N, L] -> [N, L]: sum over k >= t of gamma^(k - t) r_k, from right to left."""
    total = torch.zeros_like(rewards)
    running = rewards.new_zeros(len(rewards))
    for step in range(rewards.shape[1] - 1, -1, -1):
        running = rewards[:, step] + gamma * running
        total[:, step] = running
    return total


__all__ = ["Actions", "discounted", "earned"]
