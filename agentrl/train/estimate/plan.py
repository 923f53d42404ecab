"""What is estimated: a model, machines, and how a run would use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from agentrl.engine.architecture import Architecture
from agentrl.errors import UserError
from agentrl.train.estimate.devices import Device

Sharding = Literal["none", "zero1", "zero2", "zero3", "fsdp2"]
Placement = Literal["colocated", "asleep", "apart"]
Precision = Literal["float32", "bfloat16"]

SHARDINGS: tuple[str, ...] = get_args(Sharding)
PLACEMENTS: tuple[str, ...] = get_args(Placement)
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Work:
    """One step's rollouts: means per trajectory."""

    rows: int
    """Trajectories a step."""
    group_size: int
    """Of them share a prompt."""
    prompt_tokens: int
    sampled_tokens: int
    observed_tokens: int
    """Tool results and what else is not sampled, without the prompt."""
    calls: float
    tool_s: float
    """Seconds of one tool call."""

    @property
    def row_tokens(self) -> int:
        """Mean length of a row."""
        return self.prompt_tokens + self.sampled_tokens + self.observed_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything an estimate depends on."""

    model: str
    shape: Architecture
    device: Device
    gpus: int
    work: Work
    sharding: Sharding = "none"
    tensor_parallel: int = 1
    """GPUs of one engine replica."""
    placement: Placement = "colocated"
    """`colocated`: learner and engine in the same memory. `asleep`: they take turns, the one not at
    work gives its memory back. `apart`: on GPUs of their own."""
    rollout_gpus: int = 0
    """Of `gpus`, where placement is `apart`."""
    dtype: Precision = "bfloat16"
    checkpointing: bool = False
    """Activation checkpointing, layer by layer."""
    micro_tokens: int = 16_384
    """Tokens of one forward and backward pass."""
    max_tokens: int = 4096
    """The longest row."""
    in_flight: int = 128
    """Episodes that run at once, over all engines."""
    minibatches: int = 1
    reference: bool = False
    """A frozen copy is kept and scores every row."""
    critic: bool = False
    """A second model of the same shape learns values."""
    overlap: bool = False
    """Rollouts run during the update (`train.mode` other than `sync`)."""
    shared_prefixes: bool = True

    def __post_init__(self) -> None:
        self._refuse_counts()
        shape = self.shape
        if self.engine_gpus % self.tensor_parallel:
            raise UserError(
                f"tensor_parallel={self.tensor_parallel} does not divide the {self.engine_gpus} GPUs "
                "of the engines; choose a divisor"
            )
        if shape.n_heads % self.tensor_parallel or shape.vocab % self.tensor_parallel:
            raise UserError(
                f"tensor_parallel={self.tensor_parallel} does not divide the {shape.n_heads} heads of "
                f"{self.model}; choose a divisor"
            )
        if self.max_tokens > shape.max_positions:
            raise UserError(
                f"env.max_tokens={self.max_tokens} is beyond the {shape.max_positions} positions of "
                f"{self.model}; lower it"
            )
        if self.work.row_tokens > self.max_tokens:
            raise UserError(
                f"prompt_tokens + sampled_tokens + observed_tokens = {self.work.row_tokens} is beyond "
                f"env.max_tokens={self.max_tokens}; lower one of them or raise it"
            )

    def _refuse_counts(self) -> None:
        counts = {
            "gpus": self.gpus,
            "tensor_parallel": self.tensor_parallel,
            "prompt_tokens": self.work.prompt_tokens,
            "sampled_tokens": self.work.sampled_tokens,
        }
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        if min(self.work.observed_tokens, self.work.calls, self.work.tool_s) < 0:
            raise UserError("observed_tokens, calls and tool_s are at least 0")
        if self.placement == "apart" and not 0 < self.rollout_gpus < self.gpus:
            raise UserError(
                f"placement=apart needs rollout_gpus between 1 and {self.gpus - 1} of gpus={self.gpus}"
                if self.gpus > 1
                else "placement=apart needs at least gpus=2"
            )
        if self.placement != "apart" and self.rollout_gpus:
            raise UserError("rollout_gpus belongs to placement=apart; say that too")

    @property
    def engine_gpus(self) -> int:
        """GPUs that generate."""
        return self.rollout_gpus if self.placement == "apart" else self.gpus

    @property
    def learner_gpus(self) -> int:
        """GPUs that learn: each a data-parallel rank."""
        return self.gpus - self.rollout_gpus if self.placement == "apart" else self.gpus

    @property
    def replicas(self) -> int:
        """Engines, each on `tensor_parallel` GPUs."""
        return self.engine_gpus // self.tensor_parallel

    @property
    def size(self) -> int:
        """Bytes of a number in the engine and in the learner's products."""
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def rows_per_engine(self) -> int:
        """Rows whose keys and values one replica holds at once."""
        return -(-min(self.in_flight, self.work.rows) // self.replicas)


__all__ = [
    "GPUS_PER_NODE",
    "PLACEMENTS",
    "SHARDINGS",
    "Placement",
    "Plan",
    "Precision",
    "Sharding",
    "Work",
]
