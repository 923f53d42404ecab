"""KL to a reference as a term of the loss, and the controller of its coefficient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from agentrl.algo.aux.means import share_of_constant, share_of_mean
from agentrl.algo.loss import MAX_LOG_RATIO
from agentrl.algo.ramp import Ramp, check_coef, value_at
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.errors import UserError
from agentrl.points import Ctx, Need

KLEstimator = Literal["k1", "k2", "k3", "k3+", "abs"]


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Per-token estimate of KL(policy || reference), shape of its inputs.

    Schulman, "Approximating KL divergence" (2020): with x = logp - ref, k1 = x, k2 = x^2 / 2,
    k3 = exp(-x) + x - 1; `abs` = |x|. `k3+` has k3's value and k2's gradient, the one that is the
    gradient of the reverse KL. In k3, x is clamped to +-20 and the result to +-10, as in verl: there
    a hopeless token has no gradient.

    k1 is for rewards: as a loss its expected gradient is zero.
    """
    x = logprobs - ref_logprobs
    if estimator == "k1":
        return x
    if estimator == "abs":
        return x.abs()
    k2 = x.square() / 2
    if estimator == "k2":
        return k2
    near = x.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    k3 = (torch.exp(-near) + near - 1).clamp(-10, 10)
    return k3 if estimator == "k3" else k2 - k2.detach() + k3.detach()


def adapted(coef: float, kl: float, target: float, n: float, horizon: float) -> float:
    """The coefficient after a step whose mean KL was `kl`, over `n` trajectories.

    coef (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon): Ziegler et al., 1909.08593,
    section 2.2, whose gain is n / horizon here, as in verl.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * n / horizon)


@dataclass(frozen=True, slots=True)
class KL:
    """coef * mean over policy tokens of the KL estimate; needs `batch.ref_logprobs`.

    With a `target` the coefficient is steered by `adapted`, one step late: it goes on from the
    metrics of the step before, so a resumed run goes on exactly.
    """

    coef: float | Ramp
    """With a target, where the steering starts."""
    estimator: KLEstimator = "k3"
    target: float | None = None
    """KL per token that the coefficient is steered to; None keeps the coefficient."""
    horizon: float = 10_000.0
    """Trajectories over which the steering acts."""

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def __post_init__(self) -> None:
        check_coef("kl.coef", self.coef)
        if self.target is not None and isinstance(self.coef, Ramp):
            raise UserError("kl.coef is a ramp or steered to kl.target, not both; drop one")
        if not self.horizon > 0 or (self.target is not None and not self.target > 0):
            raise UserError(
                f"kl.target and kl.horizon are above 0, not {self.target} and {self.horizon}"
            )

    def coefficient(self, ctx: Ctx) -> float:
        """This step's coefficient: the ramp's, or the last one as the last KL changes it."""
        last = ctx.metrics
        if self.target is None or not {"kl_coef", "kl_ref", "n_sequences"} <= last.keys():
            return value_at(self.coef, ctx.step)
        return adapted(
            last["kl_coef"], last["kl_ref"], self.target, last["n_sequences"], self.horizon
        )

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metrics: `kl_ref`, the mean estimate; `kl_coef`, the coefficient in use.

        Raises UserError when the batch carries no reference logprobs.
        """
        if batch.ref_logprobs is None:
            raise UserError("a KL term needs a reference model; set learner.reference=true")
        mask = batch.mask
        logprobs = output.logprobs.masked_fill(~mask, 0.0)
        reference = batch.ref_logprobs.masked_fill(~mask, 0.0)
        values = kl_estimate(logprobs, reference, self.estimator)
        mean = share_of_mean(values, mask, output.n_tokens)
        coef = self.coefficient(ctx)
        metrics = {
            "kl_ref": mean.detach(),
            "kl_coef": share_of_constant(coef, mask, output.n_tokens),
        }
        return coef * mean, metrics


__all__ = ["KL", "KLEstimator", "adapted", "kl_estimate"]
