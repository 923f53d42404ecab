"""From the words of a command to the plan they mean: those of `agentrl train`, and a few of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from agentrl.compose import compose
from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.suggest import did_you_mean
from agentrl.train.estimate.devices import device_of
from agentrl.train.estimate.plan import PLACEMENTS, SHARDINGS, Placement, Plan, Sharding, Work
from agentrl.train.estimate.shapes import shape_of

OWN: Mapping[str, str] = {
    "gpus": "GPUs in all (1)",
    "device": "H200, H100, A100, L40S or CPU (H200)",
    "memory_gb": "memory of one, where it is not the device's usual",
    "sharding": "none, zero1, zero2, zero3 or fsdp2 (what the learner says, else none)",
    "tensor_parallel": "GPUs of one engine replica (1)",
    "placement": "colocated, asleep or apart (colocated)",
    "rollout_gpus": "of gpus, for placement=apart",
    "prompt_tokens": "mean of a row (an eighth of env.max_tokens, at most 512)",
    "sampled_tokens": "mean of a row (three eighths)",
    "observed_tokens": "mean of a row: tool results (an eighth)",
    "calls": "tool calls of a row (2)",
    "tool_s": "seconds of a call (0.5)",
}
"""Words that only the estimate knows."""


def plan_of(words: Sequence[str]) -> Plan:
    """Raises UserError for words that say nothing, or contradict one another."""
    own: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in OWN:
            own[key] = value
        elif equals and "." not in key and did_you_mean(key, OWN).startswith("; did"):
            raise UserError(f"{key} is not a word of the estimate{did_you_mean(key, OWN)}")
        else:
            rest.append(word)
    return plan_from(compose(rest), own)


def plan_from(config: RunConfig, own: Mapping[str, str]) -> Plan:
    """The plan of a run's configuration; `own` are words of `OWN`."""
    device = device_of(own.get("device", "H200"))
    if "memory_gb" in own:
        device = replace(device, memory=_number(own, "memory_gb", 0.0) * 1e9)
        if device.memory <= 0:
            raise UserError("memory_gb must be above 0")
    learner, longest = config.learner.given, config.env.max_tokens
    rows = config.train.tasks_per_step * config.rollout.group_size
    work = Work(
        rows=rows,
        group_size=config.rollout.group_size,
        prompt_tokens=_whole(own, "prompt_tokens", max(1, min(512, longest // 8))),
        sampled_tokens=_whole(own, "sampled_tokens", max(1, longest * 3 // 8)),
        observed_tokens=_whole(own, "observed_tokens", longest // 8),
        calls=_number(own, "calls", 2.0),
        tool_s=_number(own, "tool_s", 0.5),
    )
    asked_critic = learner.get("critic")
    return Plan(
        model=config.model.path,
        shape=shape_of(config.model.path),
        device=device,
        gpus=_whole(own, "gpus", 1),
        work=work,
        sharding=cast(Sharding, _one_of(own, "sharding", SHARDINGS, _sharding(config))),
        tensor_parallel=_whole(own, "tensor_parallel", 1),
        placement=cast(Placement, _one_of(own, "placement", PLACEMENTS, "colocated")),
        rollout_gpus=_whole(own, "rollout_gpus", 0),
        dtype=config.model.dtype,
        checkpointing=bool(learner.get("activation_checkpointing", False)),
        micro_tokens=config.learner.micro_tokens,
        max_tokens=longest,
        in_flight=config.rollout.in_flight,
        minibatches=config.algo.minibatches,
        reference=_has_reference(config),
        critic=asked_critic is not None,
        overlap=config.train.mode != "sync",
        shared_prefixes=bool(learner.get("shared_prefixes", True)),
    )


def _has_reference(config: RunConfig) -> bool:
    asked = bool(config.learner.given.get("reference", False))
    return asked or config.algo.reward_kl.coef > 0 or any("kl" in a.name for a in config.algo.aux)


def _sharding(config: RunConfig) -> str:
    """What the learner's own name and options mean."""
    name, given = config.learner.name, config.learner.given
    if name.startswith("fsdp"):
        return "fsdp2"
    if name.startswith("deepspeed"):
        stage = given.get("stage", given.get("zero_stage", 2))
        return f"zero{stage}" if str(stage) in "123" else "none"
    return "none"


def _one_of(own: Mapping[str, str], key: str, known: Sequence[str], default: str) -> str:
    value = own.get(key, default)
    if value not in known:
        raise UserError(f"{key}={value} is not known{did_you_mean(value, known)}")
    return value


def _whole(own: Mapping[str, str], key: str, default: int) -> int:
    if key not in own:
        return default
    try:
        return int(own[key].replace("_", "").replace(",", ""))
    except ValueError:
        raise UserError(f"{key}={own[key]} is not a whole number") from None


def _number(own: Mapping[str, str], key: str, default: float) -> float:
    if key not in own:
        return default
    try:
        value = float(own[key])
    except ValueError:
        raise UserError(f"{key}={own[key]} is not a number") from None
    if not 0 <= value < float("inf"):
        raise UserError(f"{key}={own[key]} is not a number that is at least 0")
    return value


__all__ = ["OWN", "plan_from", "plan_of"]
