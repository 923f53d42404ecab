"""GDPO (2601.05242): normalise each reward component in its group, then sum, then normalise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from agentrl.algo.advantage import whitened
from agentrl.algo.groups import check_ddof, group_normal
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class GDPO:
    """A = normal over the batch of the sum over k of w_k (r_k - mean_k) / (deviation_k + eps).

    Reads the named components (`env` and those of the reward functions), not the shaped scalar:
    shapers have no say. Lone members and groups equal in a component count 0 in it.
    """

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """Component -> w_k; empty takes every component with weight 1."""
    whiten: Literal["trajectory", "token", "none"] = "trajectory"
    """The last step over all trajectories (the paper's form), over all tokens (verl's), or not."""
    ddof: int = 1
    """1: sample deviation; 0: population."""
    eps: float = 1e-6
    """Added to a component's deviation."""

    def __post_init__(self) -> None:
        check_ddof(self.ddof)

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask. Raises UserError on a component the batch lacks."""
        found = Trajectories.of_batch(batch)
        total = torch.zeros_like(found.outcomes)
        for name, weight in self._weights(batch).items():
            values = found.one_each(batch.components[name].double())
            normal = group_normal(values, found.groups, ddof=self.ddof, eps=self.eps, lone="zero")
            total = total + weight * normal
        if self.whiten == "trajectory":
            everyone = torch.zeros_like(found.groups)
            # Its mean is 0 by construction; what nothing was compared for stays exactly 0.
            normal = group_normal(total, everyone, ddof=1, eps=1e-8, lone="zero")
            total = normal.masked_fill(total == 0, 0.0)
        advantages = found.spread(total, batch.mask)
        if self.whiten == "token":
            advantages = whitened(advantages, batch.mask)
        return advantages.float()

    def _weights(self, batch: Batch) -> Mapping[str, float]:
        if not batch.components:
            raise UserError("advantage gdpo needs named reward components; add reward functions")
        for name in self.weights:
            if name not in batch.components:
                known = tuple(batch.components)
                raise UserError(
                    f"advantage.weights names no reward component {name!r}"
                    f"{did_you_mean(name, known)}; there are {', '.join(known)}"
                )
        return self.weights or dict.fromkeys(batch.components, 1.0)


__all__ = ["GDPO"]
