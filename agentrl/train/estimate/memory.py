"""Bytes of a step on one GPU of each kind, from sizes alone.

Checked against a byte count of torch's allocator for sharding `none` on the CPU
(tests/train/test_estimate_memory.py); the other shardings follow ZeRO (1910.02054, section 5) and
FSDP2's rule of one gathered layer beside the one computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.engine.architecture import Architecture
from agentrl.train.estimate.plan import Plan
from agentrl.train.estimate.shapes import (
    embedding_parameters,
    kv_bytes_per_token,
    layer_matrices,
    layer_parameters,
    parameters,
)

FP32 = 4
CHUNK_ELEMENTS = 1 << 24
"""Of `agentrl.algo.head`, which would bring torch; a test holds the two together."""
MOMENTS = 8
"""Bytes of AdamW's two moments."""
REDUCE_BUCKET = 2 * 10**8
"""Numbers in flight while ZeRO reduces gradients."""


@dataclass(frozen=True, slots=True)
class LearnerMemory:
    """Bytes on one learner GPU at the worst moment of a step."""

    parameters: float
    gradients: float
    optimizer: float
    frozen: float
    """The reference model."""
    copies: float
    """Weights cast to bf16, or gathered from the other ranks."""
    activations: float
    """Kept for the backward pass."""
    logits: float
    """The output layer's chunks, in forward and backward."""
    temporaries: float
    """Gradients on their way, and buckets of communication."""

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self.parts().values())

    def parts(self) -> Mapping[str, float]:
        """Each by its name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes on one engine GPU."""

    weights: float
    kv_cache: float
    """All rows in flight at their longest."""
    temporaries: float
    """Logits of one decoding step and activations of a prefill."""

    @property
    def total(self) -> float:
        """The sum."""
        return self.weights + self.kv_cache + self.temporaries

    def parts(self) -> Mapping[str, float]:
        """Each by its name."""
        return {name: getattr(self, name) for name in self.__slots__}


def token_bytes(shape: Architecture, *, bfloat16: bool, native: bool) -> int:
    """What one layer keeps of one token for its backward pass, without checkpointing.

    Per RMSNorm the input, the normalised and the scaled state; queries, keys, values and the
    attention's output, the log-sum-exp of each head; four widths of the MLP. Under autocast
    (`bfloat16` and not `native`) norms stay in fp32 and each product casts its own input.
    """
    q, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    wide = 2 * q + 2 * kv + 4 * shape.intermediate
    scalars = FP32 * (shape.n_heads + 2)
    # A norm over each head keeps what the other norms keep, of queries and keys.
    head_norms = 2 * (q + kv) * shape.qk_norm
    if not bfloat16:
        return FP32 * (6 * shape.hidden + wide + head_norms) + scalars
    norms = 16 * shape.hidden if native else 16 * shape.hidden + 10 * shape.hidden
    return norms + 2 * wide + 6 * head_norms // 2 + scalars


def learner_memory(
    plan: Plan, *, tokens: int | None = None, scored: int | None = None, micro_batches: int = 2
) -> LearnerMemory:
    """At the worst moment of a step whose micro-batches compute `tokens` and score `scored` of them.

    Of one micro-batch alone gradients appear while activations go; of several they are there from
    the second on.
    """
    shape, held = plan.shape, _states(plan, parameters(plan.shape))
    tokens = max(plan.micro_tokens, plan.max_tokens) if tokens is None else tokens
    scored = tokens if scored is None else scored
    native, bfloat16 = plan.sharding != "none", plan.dtype == "bfloat16"
    state = tokens * shape.hidden
    layer = tokens * token_bytes(shape, bfloat16=bfloat16, native=native)
    entry = state * (2 if bfloat16 and native else FP32)
    entries = shape.n_layers * entry
    behind = FP32 * (3 * state + scored * shape.hidden)
    table = FP32 * embedding_parameters(shape)
    head = _logits(scored, shape.vocab) + (table / 2 if bfloat16 else 0)
    within = FP32 * state + 2 * plan.size * tokens * shape.intermediate
    full = held.gradients
    there = full if micro_batches > 1 or native else 0.0
    kept = entries if plan.checkpointing else shape.n_layers * layer
    recomputed = layer if plan.checkpointing else 0
    moments = (
        _Moment(there, kept + behind, head, table + FP32 * scored * shape.hidden),
        _Moment(max(there, min(full, table)), kept + recomputed, 0, within),
        _Moment(full, layer, 0, within),
        _Moment(full, entry, 0, table + entry),
    )
    worst = max(moments, key=lambda moment: moment.total)
    return LearnerMemory(
        parameters=held.parameters,
        gradients=worst.gradients,
        optimizer=held.optimizer,
        frozen=held.frozen,
        copies=held.copies,
        activations=worst.activations,
        logits=worst.logits,
        temporaries=worst.temporaries + held.buckets,
    )


def _logits(scored: int, vocab: int) -> float:
    """The output layer's chunks alive at once in `agentrl.algo.head`, in bytes.

    One chunk is kept from the forward pass and two are made of it. Of several, each is made again,
    and the slope of the one before is still there.
    """
    step = max(1, CHUNK_ELEMENTS // vocab)
    if scored <= step:
        return FP32 * 3 * scored * vocab
    second = min(step, scored - step)
    return FP32 * max(2 * step, step + 2 * second) * vocab


@dataclass(frozen=True, slots=True)
class _Moment:
    """What a point of a step adds to weights and moments."""

    gradients: float
    activations: float
    logits: float
    temporaries: float

    @property
    def total(self) -> float:
        return self.gradients + self.activations + self.logits + self.temporaries


@dataclass(frozen=True, slots=True)
class _States:
    parameters: float
    gradients: float
    optimizer: float
    frozen: float
    copies: float
    buckets: float


def _states(plan: Plan, n: int) -> _States:
    """Bytes of the model's states on one of the ranks."""
    ranks, size, shape = plan.learner_gpus, plan.size, plan.shape
    models = 1 + plan.critic
    one_layer, tables = layer_parameters(shape), embedding_parameters(shape) * (2 - shape.tied)
    live = 2 * one_layer + tables
    bucket = min(REDUCE_BUCKET, n) * size
    if plan.sharding == "none":
        cast_layers = 1 if plan.checkpointing else shape.n_layers
        cast = 2 * cast_layers * layer_matrices(shape) if plan.dtype == "bfloat16" else 0
        found = _States(FP32 * n, FP32 * n, MOMENTS * n, FP32 * n, cast, 0)
    elif plan.sharding == "fsdp2":
        found = _States(
            FP32 * n / ranks, FP32 * n / ranks, MOMENTS * n / ranks, FP32 * n / ranks,
            size * live, size * (one_layer + tables),
        )  # fmt: skip
    elif plan.sharding == "zero3":
        states = (size * n / ranks, size * n / ranks, (FP32 + MOMENTS) * n / ranks)
        found = _States(*states, size * n / ranks, size * live, bucket)
    else:
        of_gradients = size * n / (ranks if plan.sharding == "zero2" else 1)
        whole_master = (FP32 + MOMENTS) * n / ranks
        buckets = bucket if plan.sharding == "zero2" else 0
        found = _States(size * n, of_gradients, whole_master, size * n, 0, buckets)
    return _States(
        models * found.parameters,
        models * found.gradients,
        models * found.optimizer,
        found.frozen if plan.reference else 0.0,
        found.copies,
        found.buckets,
    )


def engine_memory(plan: Plan) -> EngineMemory:
    """Of one GPU of a replica: all rows in flight at `max_tokens`, no prefix shared."""
    shape, across = plan.shape, plan.tensor_parallel
    per_token = kv_bytes_per_token(shape, plan.size)
    # Keys and values are repeated where there are fewer of their heads than GPUs.
    kv_across = min(across, shape.n_kv_heads)
    rows = plan.rows_per_engine
    prefill = min(plan.max_tokens, 8192)
    work = prefill * (2 * shape.intermediate // across + 4 * shape.hidden) * plan.size
    return EngineMemory(
        parameters(shape) * plan.size / across,
        rows * plan.max_tokens * per_token / kv_across,
        rows * shape.vocab * (FP32 * 2) / across + work,
    )


def rows_that_fit(plan: Plan, free: float) -> int:
    """Rows of `max_tokens` whose keys and values fit into `free` bytes of each GPU of a replica."""
    kv_across = min(plan.tensor_parallel, plan.shape.n_kv_heads)
    row = plan.max_tokens * kv_bytes_per_token(plan.shape, plan.size) / kv_across
    return max(0, int(free // (row + plan.shape.vocab * 2 * FP32 / plan.tensor_parallel)))


__all__ = [
    "CHUNK_ELEMENTS",
    "FP32",
    "MOMENTS",
    "EngineMemory",
    "LearnerMemory",
    "engine_memory",
    "learner_memory",
    "rows_that_fit",
    "token_bytes",
]
