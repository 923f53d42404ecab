"""One optimiser update: groups -> batch -> what other models say -> advantages -> the learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agentrl.algo.advantage import estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate
from agentrl.algo.offpolicy import Correction
from agentrl.algo.schedule_resets import RESET_METRIC
from agentrl.algo.types import Batch
from agentrl.config import AlgoConfig
from agentrl.points import Advantage, AuxTerm, Ctx, PolicyLoss, Schedule
from agentrl.train.learner import Learner
from agentrl.train.reward_kl import RewardKL
from agentrl.trajectory import Group

PAD = 0
"""Padding is never attended to, so any id serves."""


@dataclass(frozen=True, slots=True)
class Update:
    """The extension points of the optimiser step."""

    advantage: Advantage
    loss: PolicyLoss
    aux: Mapping[str, AuxTerm]
    """By registry name, numbered from the second of a name on."""
    schedules: tuple[Schedule, ...]
    correction: Correction
    reward_kl: RewardKL | None
    algo: AlgoConfig


def learn(update: Update, learner: Learner, groups: Sequence[Group], ctx: Ctx) -> dict[str, float]:
    """One update on the kept groups; its metrics."""
    patch = ctx.patch
    if patch.lr is not None:
        learner.set_lr(patch.lr)
    if patch.anchor is not None:
        learner.move_reference(patch.anchor)
    if patch.reset_reference:
        learner.snapshot_reference()
    if patch.reset_optimizer:
        learner.reset_optimizer()
    batch = learner.prepared(make_batch(groups, pad_id=PAD))
    penalised: Mapping[str, float] = {}
    if update.reward_kl is not None:
        batch = replace(batch, old_logprobs=learner.logprobs(batch))
        batch, penalised = update.reward_kl(batch, ctx)
    batch = estimate(update.advantage, batch, ctx)
    learnt = learner.update(
        batch,
        loss=update.loss,
        aggregate=Aggregate(update.algo.aggregate, update.algo.aggregate_length),
        aux=update.aux,
        correction=update.correction,
        minibatches=update.algo.minibatches,
        ctx=ctx,
    )
    # Schedules read it back: a validation that stalls counts from the last reset.
    reset = {RESET_METRIC: 1.0} if patch.reset_reference else {}
    return {**learnt, **penalised, **_about(batch), **reset}


def _about(batch: Batch) -> dict[str, float]:
    assert batch.advantages is not None
    zero = (batch.advantages.abs().amax(1) == 0).float().mean()
    trainable = int(batch.attention_mask[:, 1:].sum())
    return {
        "zero_advantage_rows": float(zero),
        "mask_share": batch.n_tokens / max(trainable, 1),
    }


__all__ = ["PAD", "Update", "learn"]
