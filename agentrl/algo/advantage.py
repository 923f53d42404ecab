"""Outcome rewards -> advantages, one parametric estimator for every critic-free row.

A_i = (r_i - center) / (scale + eps), given to every token with mask 1, then optionally whitened.
Statistics are taken over trajectories, never over rows, and over the whole step, never a
micro-batch.

| method | center | scale | whiten | paper |
|---|---|---|---|---|
| GRPO | group | group | no | DeepSeekMath 2402.03300, section 4.1.2 |
| Dr. GRPO | group | none | no | 2503.20783, equation 3 |
| RLOO | loo | none | no | 2402.14740, equation 7 |
| REINFORCE++-baseline | group | none | yes | 2501.03262 |
| Lite PPO | group | batch (of raw rewards) | no | 2508.08221 |
| OPO | length_weighted | none | no | 2505.23585 |
| AdaptThink | none | none | no | 2505.13417 |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from agentrl.algo.groups import check_ddof, group_deviation, group_extent, group_size, group_sum
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.types import Batch
from agentrl.points import Advantage, Ctx, Estimate

Center = Literal["none", "batch", "group", "loo", "length_weighted"]
Scale = Literal["none", "batch", "group"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One number per trajectory, from what it earned in all. Default: GRPO.

    What was earned token by token (a KL penalty inside the reward, say) counts into the scalar; by
    itself it reaches no single token. A group of one has nothing to compare with: its centre is 0
    and its group scale 1, so that its advantage is the raw reward (verl's convention). A group of
    equal rewards gets exactly 0.
    """

    center: Center = "group"
    scale: Scale = "group"
    ddof: int = 1
    """1: sample deviation (torch, verl, TRL, ROLL); 0: population."""
    eps: float = 1e-6
    """Added to the scale; not used when `scale` is none."""
    whiten: bool = False
    """Afterwards normalise over all tokens with mask 1."""

    def __post_init__(self) -> None:
        check_ddof(self.ddof)

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        found = Trajectories.of_batch(batch)
        scalars = self.scalars(found.returns, found.groups, found.lengths)
        return self.finished(found.spread(scalars, batch.mask), batch.mask)

    def finished(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """f32 [B, T]: whitened where that is asked for."""
        return (whitened(advantages, mask) if self.whiten else advantages).float()

    def scalars(self, rewards: Tensor, groups: Tensor, lengths: Tensor) -> Tensor:
        """One advantage per trajectory.

        `rewards` f64 [N], `groups` i64 [N] in 0..n_groups-1, `lengths` f64 [N] policy tokens.
        """
        sizes = group_size(rewards, groups)
        alone = sizes == 1
        centred = rewards - self._centers(rewards, groups, lengths, sizes, alone)
        if self.center in ("group", "loo", "length_weighted"):
            equal = group_extent(rewards, groups) == 0
            centred = centred.masked_fill(equal & ~alone, 0.0)
        if self.scale == "none":
            return centred
        everyone = torch.zeros_like(groups) if self.scale == "batch" else groups
        return centred / (group_deviation(rewards, everyone, self.ddof) + self.eps)

    def _centers(
        self, rewards: Tensor, groups: Tensor, lengths: Tensor, sizes: Tensor, alone: Tensor
    ) -> Tensor:
        match self.center:
            case "none":
                return torch.zeros_like(rewards)
            case "batch":
                return rewards.mean().expand_as(rewards)
            case "group":
                centers = group_sum(rewards, groups) / sizes
            case "loo":
                centers = (group_sum(rewards, groups) - rewards) / (sizes - 1).clamp(min=1)
            case "length_weighted":
                total = group_sum(lengths, groups)
                weighted = group_sum(lengths * rewards, groups) / total.clamp(min=1)
                # A group that wrote nothing at all falls back to the plain mean.
                centers = torch.where(total > 0, weighted, group_sum(rewards, groups) / sizes)
        return centers.masked_fill(alone, 0.0)


GRPO = Outcome()
"""What estimators that refine an outcome's advantage start from."""


def identity() -> Outcome:
    """AdaptThink's advantage (2505.13417): the shaped reward itself, neither centred nor scaled."""
    return Outcome(center="none", scale="none")


def estimate(estimator: Advantage, batch: Batch, ctx: Ctx) -> Batch:
    """The batch with the step's `advantages`, times the rows' weights, and the critic's `returns`.

    Raises ValueError when a tensor has another shape, is not finite, or is not zero off the mask.
    """
    found = estimator(batch, ctx)
    if isinstance(found, Tensor):
        found = Estimate(found)
    for tensor in found:
        if tensor is not None and tensor.shape != batch.mask.shape:
            shape = tuple(tensor.shape)
            raise ValueError(f"advantages have shape {shape}, expected {tuple(batch.mask.shape)}")
    advantages = found.advantages
    if not bool(advantages.isfinite().all()):
        raise ValueError("an advantage is not finite")
    if bool((advantages[~batch.mask] != 0).any()):
        raise ValueError("an advantage is not zero off the mask")
    weighted = advantages * batch.weights[:, None]
    return replace(batch, advantages=weighted, returns=found.returns)


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over the masked tokens, sample variance, zero elsewhere."""
    kept = values[mask]
    if len(kept) < 2:
        return torch.zeros_like(values)
    normal = (values - kept.mean()) * torch.rsqrt(kept.var(correction=1) + 1e-8)
    return normal * mask


PRESETS: Mapping[str, Outcome] = {
    "grpo": GRPO,
    "dr_grpo": Outcome(scale="none"),
    "rloo": Outcome(center="loo", scale="none"),
    "reinforce_pp_baseline": Outcome(scale="none", whiten=True),
    "lite_ppo": Outcome(scale="batch"),
    "opo": Outcome(center="length_weighted", scale="none"),
}
"""Published estimators by name."""

__all__ = ["GRPO", "PRESETS", "Center", "Outcome", "Scale", "estimate", "identity", "whitened"]
