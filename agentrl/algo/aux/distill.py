"""On-policy distillation: reverse KL to a teacher on the policy's own tokens (KDRL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from agentrl.algo.aux.kl import kl_estimate
from agentrl.algo.aux.means import share_of_constant, share_of_mean
from agentrl.algo.ramp import Ramp, check_coef, value_at
from agentrl.algo.tensors import distinct
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.errors import UserError
from agentrl.points import Ctx, Need

Estimator = Literal["k2", "k3"]

ANNEALED = Ramp(start=5e-3, end=1e-3, steps=80)
"""KDRL's best coefficient, max(5e-3 - 5e-5 step, 1e-3)."""


@dataclass(frozen=True, slots=True)
class Distill:
    """coef * mean over policy tokens of KL(policy || teacher) (KDRL, 2506.02208, equation 8).

    k2, the default, has the gradient of the reverse KL; k3 is the paper's other one. Dropped
    tokens count 0 and stay in the mean, as in the equation. The paper drops the KL to the
    reference: use no `kl` term beside it.
    """

    coef: float | Ramp = ANNEALED
    estimator: Estimator = "k2"
    skip_correct: bool = False
    """The response mask: no distillation on correct trajectories."""

    needs: ClassVar[frozenset[Need]] = frozenset({"teacher"})

    def __post_init__(self) -> None:
        check_coef("distill.coef", self.coef)

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metrics: `teacher_kl`, the mean over policy tokens; `distill_coef`; `distill_share`, the
        policy tokens that are distilled.

        Raises UserError when the batch carries no teacher logprobs.
        """
        kept = batch.mask & ~batch.correct[:, None] if self.skip_correct else batch.mask
        return _distilled(value_at(self.coef, ctx.step), self.estimator, kept, output, batch)


@dataclass(frozen=True, slots=True)
class DistillUnsolved:
    """`Distill` with the paper's group mask: only groups without a correct trajectory are distilled.

    A group may lie in several micro-batches, so this one looks at the whole step's batch.
    """

    coef: float | Ramp = ANNEALED
    estimator: Estimator = "k2"

    needs: ClassVar[frozenset[Need]] = frozenset({"teacher"})

    def __post_init__(self) -> None:
        check_coef("distill.coef", self.coef)

    def weights(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T]: 1 on the policy's tokens of unsolved groups, else 0."""
        n, group = distinct(batch.group_index)
        solved = batch.correct.new_zeros(n)
        solved[group[batch.correct]] = True
        return (batch.mask & ~solved[group][:, None]).float()

    def __call__(
        self, output: ForwardOutput, batch: Batch, ctx: Ctx
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Metrics and errors as `Distill`'s; ValueError without `output.weights`."""
        if output.weights is None:
            raise ValueError("the group mask needs its weights over the whole batch")
        kept = batch.mask & (output.weights > 0)
        return _distilled(value_at(self.coef, ctx.step), self.estimator, kept, output, batch)


def distill(
    coef: float | Ramp = ANNEALED,
    estimator: Estimator = "k2",
    mask: Literal["none", "response", "group"] = "none",
) -> Distill | DistillUnsolved:
    """KDRL's distillation: on all rollouts, on wrong ones, or on groups without a right one."""
    if mask == "group":
        return DistillUnsolved(coef, estimator)
    return Distill(coef, estimator, skip_correct=mask == "response")


def _distilled(
    coef: float, estimator: Estimator, kept: Tensor, output: ForwardOutput, batch: Batch
) -> tuple[Tensor, Mapping[str, Tensor]]:
    if batch.teacher_logprobs is None:
        raise UserError("distillation needs a teacher model; set learner.teacher to one")
    logprobs = output.logprobs.masked_fill(~kept, 0.0)
    teacher = batch.teacher_logprobs.masked_fill(~kept, 0.0)
    mean = share_of_mean(kl_estimate(logprobs, teacher, estimator), kept, output.n_tokens)
    metrics = {
        "teacher_kl": mean.detach(),
        "distill_coef": share_of_constant(coef, batch.mask, output.n_tokens),
        "distill_share": share_of_constant(1.0, kept, output.n_tokens),
    }
    return coef * mean, metrics


__all__ = ["ANNEALED", "Distill", "DistillUnsolved", "distill"]
