"""Entropy bonuses: constant, as a floor, or steered to a target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from agentrl.algo.aux.means import share_of_constant, share_of_mean
from agentrl.algo.ramp import Ramp, check_coef, value_at
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.errors import UserError
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class Entropy:
    """-coef * mean entropy of the policy's tokens: a bonus that is minimised with the loss.

    With a `floor` it acts only in steps after one whose mean entropy was below the floor: the
    current step's mean is not known before its forward pass is over.
    """

    coef: float | Ramp
    floor: float | None = None
    """In nats per token; None lets the bonus always act."""

    def __post_init__(self) -> None:
        check_coef("entropy.coef", self.coef)
        if self.floor is not None and not self.floor > 0:
            raise UserError(f"entropy.floor is above 0 nats, not {self.floor}")

    def coefficient(self, ctx: Ctx) -> float:
        """This step's coefficient: 0 while the last mean entropy is unknown or at the floor."""
        if self.floor is not None and not ctx.metrics.get("entropy", math.inf) < self.floor:
            return 0.0
        return value_at(self.coef, ctx.step)

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Exact entropies of the sampled-from distributions, not an estimate from samples.

        Metrics: `entropy_bonus`, coef times the mean; `entropy_coef`, the coefficient in use.
        """
        return _bonus(self.coefficient(ctx), output, batch)


@dataclass(frozen=True, slots=True)
class AdaptiveEntropy:
    """A floor whose coefficient looks for itself (Skywork-OR1, 2505.22312, adaptive entropy control).

    c grows by `delta` after a step whose mean entropy was below `target` and shrinks by it after one
    above, within [0, `max_coef`]; the bonus acts, with c, only below the target. Differences from
    the report: the entropy is the step before's (the report measures it before the update), and c
    is bounded. c goes on from the metrics of the step before, so a resumed run goes on exactly.
    """

    target: float
    """Mean entropy in nats per token to hold."""
    delta: float = 0.005
    """Change of the coefficient a step."""
    max_coef: float = 1.0

    def __post_init__(self) -> None:
        if not (self.target > 0 and self.delta > 0 and self.max_coef >= self.delta):
            raise UserError(
                "adaptive_entropy needs target > 0 and 0 < delta <= max_coef, not "
                f"{self.target}, {self.delta} and {self.max_coef}"
            )

    def coefficient(self, ctx: Ctx) -> float:
        """c of this step; 0 in the first."""
        last, found = ctx.metrics.get("entropy_control", 0.0), ctx.metrics.get("entropy")
        if found is None:
            return last
        moved = last + self.delta if found < self.target else last - self.delta
        return min(max(moved, 0.0), self.max_coef)

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metrics: `entropy_control`, c; `entropy_bonus`, `entropy_coef` as for `Entropy`."""
        coef = self.coefficient(ctx)
        acts = ctx.metrics.get("entropy", math.inf) <= self.target
        loss, metrics = _bonus(coef if acts else 0.0, output, batch)
        control = share_of_constant(coef, batch.mask, output.n_tokens)
        return loss, {**metrics, "entropy_control": control}


def _bonus(coef: float, output: ForwardOutput, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    mean = share_of_mean(output.entropies, batch.mask, output.n_tokens)
    metrics = {
        "entropy_bonus": coef * mean.detach(),
        "entropy_coef": share_of_constant(coef, batch.mask, output.n_tokens),
    }
    return -coef * mean, metrics


__all__ = ["AdaptiveEntropy", "Entropy"]
