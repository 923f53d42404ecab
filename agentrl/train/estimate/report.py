"""The estimate of a plan: what each GPU holds, whether that fits, what would make it fit, and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from agentrl.errors import UserError
from agentrl.train.estimate.memory import (
    EngineMemory,
    LearnerMemory,
    engine_memory,
    learner_memory,
    rows_that_fit,
)
from agentrl.train.estimate.plan import Plan
from agentrl.train.estimate.shapes import parameters
from agentrl.train.estimate.steptime import Load, StepTime, load_of, step_time

MOST_GPUS = 1024
CHANGES_TRIED = 6
"""Settings changed at once before more GPUs are asked for."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one plan."""

    plan: Plan
    n_parameters: int
    learner: LearnerMemory
    engine: EngineMemory
    learner_gpu: float
    """Bytes on a GPU that learns, the engine beside it and the overhead included."""
    engine_gpu: float
    """Bytes on a GPU that generates; the same where they share one."""
    time: StepTime
    load: Load

    @property
    def misfits(self) -> tuple[str, ...]:
        """What does not fit, one sentence each; empty when all does."""
        room = self.plan.device.memory
        roles = {"learner": self.learner_gpu, "engine": self.engine_gpu}
        if self.plan.placement == "colocated":
            roles = {"learner and engine together": self.learner_gpu}
        return tuple(
            f"{who}: {needed / 1e9:.1f} GB on a {self.plan.device.name} of {room / 1e9:.0f} GB"
            for who, needed in roles.items()
            if needed > room
        )

    @property
    def mfu(self) -> float:
        """Share of the learner GPUs' peak that the forward and backward passes use while learning."""
        device = self.plan.device
        peak = device.bf16_flops if self.plan.dtype == "bfloat16" else device.fp32_flops
        return self.load.model_flops / (self.time.learning * self.plan.learner_gpus * peak)


def estimate(plan: Plan) -> Estimate:
    """Memory and time of `plan`; pure arithmetic."""
    learner, engine = learner_memory(plan), engine_memory(plan)
    overhead = plan.device.overhead
    if plan.placement == "colocated":
        learner_gpu = engine_gpu = learner.total + engine.total + overhead
    else:
        learner_gpu, engine_gpu = learner.total + overhead, engine.total + overhead
    return Estimate(
        plan,
        parameters(plan.shape),
        learner,
        engine,
        learner_gpu,
        engine_gpu,
        step_time(plan),
        load_of(plan),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that may save memory."""

    key: str
    apply: Callable[[Plan], tuple[str, Plan] | None]
    """The word that says it and the plan under it; None where it changes nothing."""


def mend(plan: Plan) -> Sequence[str]:
    """The fewest words that make `plan` fit, found by trying; empty when nothing here does.

    Settings come before machines: GPUs are doubled only when no `CHANGES_TRIED` settings help.
    """
    gpus = plan.gpus
    while gpus <= MOST_GPUS:
        more = _with_gpus(plan, gpus)
        if more is not None:
            found = _settings(more)
            if found is not None:
                return ([f"gpus={gpus}"] if gpus > plan.gpus else []) + list(found)
        gpus *= 2
    return ()


def _with_gpus(plan: Plan, gpus: int) -> Plan | None:
    scale = gpus // plan.gpus
    try:
        return replace(plan, gpus=gpus, rollout_gpus=plan.rollout_gpus * scale)
    except UserError:
        return None


def _settings(plan: Plan) -> Sequence[str] | None:
    if fits(plan):
        return ()
    for n in range(1, CHANGES_TRIED + 1):
        for changes in combinations(CHANGES, n):
            if len({change.key for change in changes}) < n:
                continue
            words = _applied(plan, changes)
            if words is not None:
                return words
    return None


def _applied(plan: Plan, changes: Sequence[Change]) -> Sequence[str] | None:
    words: list[str] = []
    for change in changes:
        try:
            found = change.apply(plan)
        except UserError:
            return None
        if found is None:
            return None
        words.append(found[0])
        plan = found[1]
    return words if fits(plan) else None


def fits(plan: Plan) -> bool:
    """Whether every GPU holds its part."""
    return not estimate(plan).misfits


def _checkpointing(plan: Plan) -> tuple[str, Plan] | None:
    if plan.checkpointing:
        return None
    return "learner.activation_checkpointing=true", replace(plan, checkpointing=True)


def _micro_tokens(plan: Plan) -> tuple[str, Plan] | None:
    if plan.micro_tokens <= plan.max_tokens:
        return None
    word = f"learner.micro_tokens={plan.max_tokens}"
    return word, replace(plan, micro_tokens=plan.max_tokens)


def _dtype(plan: Plan) -> tuple[str, Plan] | None:
    if plan.dtype == "bfloat16":
        return None
    return "model.dtype=bfloat16", replace(plan, dtype="bfloat16")


def _zero2(plan: Plan) -> tuple[str, Plan] | None:
    if plan.sharding not in ("none", "zero1") or plan.learner_gpus == 1:
        return None
    return "sharding=zero2", replace(plan, sharding="zero2")


def _fsdp2(plan: Plan) -> tuple[str, Plan] | None:
    if plan.sharding in ("zero3", "fsdp2") or plan.learner_gpus == 1:
        return None
    return "sharding=fsdp2", replace(plan, sharding="fsdp2")


def _asleep(plan: Plan) -> tuple[str, Plan] | None:
    if plan.placement != "colocated" or plan.overlap:
        return None
    return "placement=asleep", replace(plan, placement="asleep")


def _tensor_parallel(across: int) -> Callable[[Plan], tuple[str, Plan] | None]:
    def apply(plan: Plan) -> tuple[str, Plan] | None:
        if plan.tensor_parallel >= across or across > plan.engine_gpus:
            return None
        return f"tensor_parallel={across}", replace(plan, tensor_parallel=across)

    return apply


def _in_flight(plan: Plan) -> tuple[str, Plan] | None:
    """As many rows as fit beside everything else, at least 8 a replica."""
    found = estimate(plan)
    beside = found.learner.total if plan.placement == "colocated" else 0.0
    fixed = found.engine.weights + plan.device.overhead + beside
    prefill = estimate(replace(plan, in_flight=plan.replicas)).engine.temporaries
    rows = rows_that_fit(plan, plan.device.memory - fixed - prefill)
    if not min(8, plan.rows_per_engine) <= rows < plan.rows_per_engine:
        return None
    in_flight = rows * plan.replicas
    return f"rollout.in_flight={in_flight}", replace(plan, in_flight=in_flight)


CHANGES = (
    Change("micro_tokens", _micro_tokens),
    Change("checkpointing", _checkpointing),
    Change("sharding", _zero2),
    Change("sharding", _fsdp2),
    Change("dtype", _dtype),
    Change("placement", _asleep),
    *(Change("tensor_parallel", _tensor_parallel(across)) for across in (2, 4, 8)),
    Change("in_flight", _in_flight),
)
"""In the order they are tried; each is made under those before it."""

__all__ = ["CHANGES", "Estimate", "estimate", "fits", "mend"]
