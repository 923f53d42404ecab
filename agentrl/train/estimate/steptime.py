"""Seconds of a step: a roofline of what must be computed, read and sent.

Generation reads all weights and the keys and values of its rows for every token; learning is bound by
its products; what ranks exchange follows ZeRO (1910.02054, section 7). Rows are taken to be alike:
stragglers, and engines that wait for tools, make a real step longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.train.estimate.memory import CHUNK_ELEMENTS, FP32, MOMENTS
from agentrl.train.estimate.plan import GPUS_PER_NODE, Plan
from agentrl.train.estimate.shapes import (
    embedding_parameters,
    kv_bytes_per_token,
    layer_matrices,
    parameters,
)

HOST_LINK = 25e9
"""Bytes per second between a GPU and the host's memory."""
ADAMW_BYTES = 28
"""Of a parameter: weight, gradient and moments are read, weight and moments written."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step by part."""

    generation: float
    """Decoding and prefill, while tools are not waited for."""
    tools: float
    """Waiting for tools where nothing else is left to do."""
    learning: float
    """Products and, where it is not hidden behind them, communication."""
    optimizer: float
    sync: float
    """New weights to the engines, and moving in and out where placement is `asleep`."""
    overlapped: bool

    @property
    def total(self) -> float:
        """Of the step; overlapped, the longer of playing and learning counts."""
        playing, updating = self.generation + self.tools, self.learning + self.optimizer
        if self.overlapped:
            return max(playing, updating) + self.sync
        return playing + updating + self.sync

    def parts(self) -> Mapping[str, float]:
        """Each by its name."""
        return {
            "generation": self.generation,
            "tools": self.tools,
            "learning": self.learning,
            "optimizer": self.optimizer,
            "sync": self.sync,
        }


@dataclass(frozen=True, slots=True)
class Load:
    """What a step computes, over all GPUs."""

    computed_tokens: float
    """Through the layers, prompts once a group where prefixes are shared."""
    sampled_tokens: float
    learner_flops: float
    model_flops: float
    """Of them what one forward and one backward pass need: the numerator of MFU."""


def load_of(plan: Plan) -> Load:
    """Operations of the learner: 2 a matrix entry forward, 4 backward, causal attention at half."""
    work, shape = plan.work, plan.shape
    prompts = work.rows / work.group_size if plan.shared_prefixes else work.rows
    computed = work.rows * (work.sampled_tokens + work.observed_tokens)
    computed += prompts * work.prompt_tokens
    scored = float(work.rows * work.sampled_tokens)
    attention = shape.n_layers * 2 * shape.n_heads * shape.head_dim * work.row_tokens
    forward = computed * (2 * shape.n_layers * layer_matrices(shape) + attention)
    head = scored * 2 * embedding_parameters(shape)
    once = 3 * (forward + head)
    chunked = min(scored, plan.micro_tokens) * shape.vocab > CHUNK_ELEMENTS
    again = (forward if plan.checkpointing else 0) + (head if chunked else 0)
    scoring = (forward + head) * ((plan.minibatches > 1) + plan.reference)
    critic = once - 3 * head + again if plan.critic else 0
    return Load(computed, scored, once + again + scoring + critic, once)


def step_time(plan: Plan) -> StepTime:
    """Of one step of `plan`."""
    load = load_of(plan)
    generation, tools = _playing(plan)
    return StepTime(
        generation=generation,
        tools=tools,
        learning=_learning(plan, load),
        optimizer=_optimizer(plan),
        sync=_sync(plan),
        overlapped=plan.overlap,
    )


def decode_s(plan: Plan, rows: float, context: float) -> float:
    """Seconds of one decoding step of `rows` rows of `context` tokens in one replica."""
    shape, device, across = plan.shape, plan.device, plan.tensor_parallel
    weights = parameters(shape) * plan.size / across
    kv = rows * context * kv_bytes_per_token(shape, plan.size) / min(across, shape.n_kv_heads)
    reading = (weights + kv) / (device.bandwidth * device.bandwidth_share)
    products = shape.n_layers * layer_matrices(shape) + embedding_parameters(shape)
    computing = rows * 2 * products / (across * device.flops(plan.dtype))
    return max(reading, computing, device.layer_s * shape.n_layers)


def _playing(plan: Plan) -> tuple[float, float]:
    """Seconds of generation, and of tools beyond it: rows at work while others wait hide a part."""
    work, shape = plan.work, plan.shape
    rows = work.rows / plan.replicas
    at_once = min(float(plan.rows_per_engine), rows)
    context = work.prompt_tokens + (work.sampled_tokens + work.observed_tokens) / 2
    waiting = work.calls * work.tool_s
    # Of each row's life the share outside tools is what the engine has in its batch.
    decoding = work.sampled_tokens * decode_s(plan, at_once, context)
    busy = decoding / (decoding + waiting) if decoding else 1.0
    decoding = work.sampled_tokens * decode_s(plan, max(1.0, at_once * busy), context)
    read = rows * work.observed_tokens + max(1.0, rows / work.group_size) * work.prompt_tokens
    flops = 2 * read * shape.n_layers * layer_matrices(shape)
    prefill = flops / (plan.tensor_parallel * plan.device.flops(plan.dtype))
    waves = rows / at_once
    return waves * decoding + prefill, waves * waiting


def _learning(plan: Plan, load: Load) -> float:
    ranks, device = plan.learner_gpus, plan.device
    computing = load.learner_flops / (ranks * device.flops(plan.dtype))
    if ranks == 1:
        return computing
    micro_batches = max(1.0, load.computed_tokens / ranks / plan.micro_tokens)
    n, share = parameters(plan.shape), (ranks - 1) / ranks
    link = _link(plan, ranks)
    if plan.sharding in ("zero3", "fsdp2"):
        sent = 3 * n * plan.size * share * micro_batches
        return max(computing, sent / link)
    sent = {"none": 2 * FP32, "zero1": 3 * plan.size, "zero2": 2 * plan.size}[plan.sharding]
    return computing + plan.minibatches * sent * n * share / link


def _link(plan: Plan, ranks: int) -> float:
    return plan.device.link if ranks <= GPUS_PER_NODE else plan.device.network


def _optimizer(plan: Plan) -> float:
    n = parameters(plan.shape) / (plan.learner_gpus if plan.sharding != "none" else 1)
    speed = plan.device.bandwidth * plan.device.bandwidth_share
    return plan.minibatches * (1 + plan.critic) * n * ADAMW_BYTES / speed


def _sync(plan: Plan) -> float:
    moved = parameters(plan.shape) * plan.size / plan.tensor_parallel
    if plan.placement == "apart":
        return moved / _link(plan, plan.gpus)
    local = 2 * moved / (plan.device.bandwidth * plan.device.bandwidth_share)
    if plan.placement == "colocated":
        return local
    states = parameters(plan.shape) * (FP32 + MOMENTS)
    shard = states / (plan.learner_gpus if plan.sharding != "none" else 1)
    return local + 2 * shard / HOST_LINK


__all__ = ["Load", "StepTime", "decode_s", "load_of", "step_time"]
