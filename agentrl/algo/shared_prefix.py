"""ARPO's advantages on branched rollouts (2507.19849, section 3.2): who shares a token, shares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agentrl.algo.advantage import GRPO, Outcome
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class ARPO:
    """Advantages of rows that were branched from one another.

    `soft`, the paper's choice: each row keeps its own advantage on its copy of the prefix, which
    is `outcome` on the flattened rows. `hard`: a token that d rows share gets the mean of their d
    advantages in each of them, a row's private tokens its own. The sum over the copies of a
    token is the same in both, so with equal ratios the gradient is too. Excluded trajectories
    train no copy and are not among the d.
    """

    mode: Literal["soft", "hard"] = "soft"
    base: Outcome = GRPO
    """Makes one advantage per trajectory; default: GRPO."""

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        if self.mode == "soft":
            return self.base(batch, ctx)
        found = Trajectories.of_batch(batch)
        own = self.base.scalars(found.returns, found.groups, found.lengths)[found.of]
        shared = mean_over_sharers(own, batch) * batch.mask
        return self.base.finished(shared, batch.mask)


def mean_over_sharers(values: Tensor, batch: Batch) -> Tensor:
    """[B, T] from values [B]: at each token the mean over the trained rows that share it."""
    owners = token_owners(batch)
    n_columns = owners.shape[1]
    keys = owners * n_columns + torch.arange(n_columns, device=owners.device)
    counted = batch.attention_mask & (batch.trained > 0)[:, None]
    sums = values.new_zeros(keys.numel())
    counts = sums.index_add(
        0, keys[counted], torch.ones_like(values)[:, None].expand_as(keys)[counted]
    )
    sums = sums.index_add(0, keys[counted], values[:, None].expand_as(keys)[counted])
    return (sums / counts.clamp(min=1))[keys]


def token_owners(batch: Batch) -> Tensor:
    """i64 [B, T]: the row each token was first written in; rows that share a token name the same.

    Token t of a row with `forks` > t is its parent's, and so on up nested branches. Only what the
    two rows really have in common is shared: another row of a branched trajectory, or one
    trained under another prompt, shares no more than its equal leading ids. Where the parent is
    not in the batch, its branches share nothing.
    """
    n_rows, n_columns = batch.token_ids.shape
    parents = batch.parents.clamp(min=0)
    alike = (batch.token_ids == batch.token_ids[parents]) & batch.attention_mask[parents]
    alike = alike & batch.attention_mask
    in_common = alike.long().cumprod(1).sum(1)
    forks = torch.where(batch.parents >= 0, batch.forks.minimum(in_common), 0)
    columns = torch.arange(n_columns, device=forks.device)
    owners = torch.arange(n_rows, device=forks.device)[:, None].expand(-1, n_columns)
    for _ in range(n_rows):  # as often as branches are nested
        above = torch.where(forks[owners] > columns, parents[owners], owners)
        if bool((above == owners).all()):
            break
        owners = above
    return owners


__all__ = ["ARPO", "mean_over_sharers", "token_owners"]
