"""Preference losses over pairs within groups: REDI and DPO.

A pair's rows may lie in different micro-batches. So each token's factor is worked out once per
optimiser step, from logprobs under the very weights that step starts from; the term is then a
weighted sum of logprobs, whose gradient is exactly the preference loss's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from agentrl.algo.aux.pairs import best_and_worst
from agentrl.algo.ramp import Ramp, check_coef, value_at
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.errors import UserError
from agentrl.points import Ctx, Need


@dataclass(frozen=True, slots=True)
class REDI:
    """-logp(y_w) / |y_w| + alpha logp(y_l) / |y_l|, mean over pairs, no reference (2505.24850).

    Best against worst of each group whose rewards differ. The paper trains on stored pairs.
    """

    coef: float | Ramp = 1.0
    alpha: float = 0.8
    """Weight of the worse side: 1 is symmetric and unstable, 0 is SFT on the better side."""

    def __post_init__(self) -> None:
        check_coef("redi.coef", self.coef)
        if not 0 <= self.alpha <= 1:
            raise UserError(f"redi.alpha is between 0 and 1, not {self.alpha}; the paper's is 0.8")

    def weights(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T]: each policy token's factor on its logprob."""
        weights = torch.zeros(batch.mask.shape, device=batch.mask.device)
        pairs = best_and_worst(batch)
        for better, worse in pairs:
            weights[better] = -1 / (int(better.sum()) * len(pairs))
            weights[worse] = self.alpha / (int(worse.sum()) * len(pairs))
        return weights

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metrics: `redi_loss`; `redi_better`, the better sides' mean logprob per token.

        Raises ValueError without `output.weights`.
        """
        weights = _pair_weights(output, batch)
        logprobs = output.logprobs.masked_fill(~batch.mask, 0.0)
        loss = (weights * logprobs).sum()
        metrics = {
            "redi_loss": loss.detach(),
            "redi_better": (-weights.clamp(max=0) * logprobs.detach()).sum(),
        }
        return value_at(self.coef, ctx.step) * loss, metrics


@dataclass(frozen=True, slots=True)
class DPO:
    """-log sigmoid(beta h), h = (logp - ref)(y_w) - (logp - ref)(y_l) over whole trajectories, mean
    over pairs (2305.18290, equation 7).

    Best against worst of each group whose rewards differ; the paper trains on stored pairs.
    d L / d logp = -+ beta sigmoid(-beta h) / N on the better and the worse side's tokens.
    """

    coef: float | Ramp = 1.0
    beta: float = 0.1

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def __post_init__(self) -> None:
        check_coef("dpo.coef", self.coef)
        if not self.beta > 0:
            raise UserError(f"dpo.beta is above 0, not {self.beta}; the usual value is 0.1")

    def weights(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T]: d L / d logp of each policy token. Column 0, where no token is ever trained,
        holds the pair's share of L itself, on the better side's first row.

        Raises UserError without reference logprobs, ValueError without the policy's.
        """
        if batch.ref_logprobs is None:
            raise UserError("DPO needs a reference model; set learner.reference=true")
        if batch.old_logprobs is None:
            raise ValueError("DPO's weights need the policy's present logprobs")
        weights = torch.zeros_like(batch.old_logprobs)
        gain = (batch.old_logprobs - batch.ref_logprobs).double()
        pairs = best_and_worst(batch)
        for better, worse in pairs:
            margin = self.beta * (gain[better].sum() - gain[worse].sum())
            slope = float(self.beta * torch.sigmoid(-margin)) / len(pairs)
            weights[better] = -slope
            weights[worse] = slope
            first = int(better.any(1).nonzero()[0])
            weights[first, 0] = float(F.softplus(-margin)) / len(pairs)
        return weights

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its gradient. Metric `dpo_loss`. Raises ValueError without weights."""
        weights = _pair_weights(output, batch)
        value = weights[:, 0].sum()
        slopes = weights.masked_fill(~batch.mask, 0.0)
        logprobs = output.logprobs.masked_fill(~batch.mask, 0.0)
        loss = value + (slopes * (logprobs - logprobs.detach())).sum()
        return value_at(self.coef, ctx.step) * loss, {"dpo_loss": value.detach()}


def _pair_weights(output: ForwardOutput, batch: Batch) -> Tensor:
    if output.weights is None:
        raise ValueError("a preference term needs its weights over the whole batch")
    return output.weights


__all__ = ["DPO", "REDI"]
