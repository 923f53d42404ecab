"""The turns of a batch, found from the tokens' origins: one generation and what answers it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.credit import sampled
from agentrl.algo.tensors import distinct
from agentrl.algo.types import Batch
from agentrl.transcript import Origin


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """K turns of all rows. A turn starts where the policy writes after an observation, or first in
    a row; glue and closers inside a generation do not split it. Excluded trajectories have turns.
    """

    of: Tensor
    """i64 [B, T]: each token's turn 0..K-1 in row order, its observation included; -1 before."""
    rows: Tensor
    """i64 [K]."""
    starts: Tensor
    """i64 [K]: column of the turn's first token."""
    trajectories: Tensor
    """i64 [K]: 0..N-1 in ascending order of `trajectory_index`."""
    positions: Tensor
    """i64 [K]: turns before it in its trajectory, over all its rows."""
    last: Tensor
    """bool [K]: the trajectory's last one."""

    @classmethod
    def of_batch(cls, batch: Batch) -> Turns:
        """The turns of a step's batch."""
        written = sampled(batch)
        columns = torch.arange(written.shape[1], device=written.device)
        wrote = _latest(written, columns).roll(1, dims=1)
        wrote[:, 0] = -1
        observed = _latest(batch.origins == int(Origin.OBSERVATION), columns)
        begins = written & ((wrote < 0) | (observed > wrote))
        per_row = begins.sum(1)
        before = per_row.cumsum(0) - per_row
        within = begins.long().cumsum(1)
        rows, starts = begins.nonzero(as_tuple=True)
        numbered = distinct(batch.trajectory_index)
        trajectories = numbered.inverse[rows]
        counts = torch.bincount(trajectories, minlength=numbered.n)
        order = trajectories.argsort(stable=True)
        firsts = (counts.cumsum(0) - counts)[trajectories[order]]
        positions = torch.empty_like(order)
        positions[order] = torch.arange(len(order), device=order.device) - firsts
        return cls(
            of=torch.where(within > 0, before[:, None] + within - 1, -1),
            rows=rows,
            starts=starts,
            trajectories=trajectories,
            positions=positions,
            last=positions == counts[trajectories] - 1,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def sums(self, values: Tensor) -> Tensor:
        """[K]: the sum of values [B, T] over each turn's tokens."""
        inside = self.of >= 0
        return values.new_zeros(len(self)).index_add(0, self.of[inside], values[inside])

    def spread(self, values: Tensor, mask: Tensor) -> Tensor:
        """[B, T]: each turn's value [K] on its tokens of `mask`, 0 elsewhere."""
        if not len(self):
            return values.new_zeros(mask.shape)
        return values[self.of.clamp(min=0)] * (mask & (self.of >= 0))

    def table(self, values: Tensor) -> Tensor:
        """[N, P]: values [K] by trajectory and position, 0 after a trajectory's last turn."""
        n = int(self.trajectories.max()) + 1 if len(self) else 0
        width = int(self.positions.max()) + 1 if len(self) else 0
        laid = values.new_zeros(n, width)
        laid[self.trajectories, self.positions] = values
        return laid


def _latest(marks: Tensor, columns: Tensor) -> Tensor:
    """i64 [B, T]: column of the last mark at or before each token, -1 before the first."""
    return torch.where(marks, columns, -1).cummax(1).values


__all__ = ["Turns"]
