"""Supervised fine-tuning on demonstrations: how nano is made, and any Hugging Face model warmed up.

The loss is the mean cross-entropy over DEMO tokens (experts' turns and their end-of-turn ids).
The learning rate warms up over the first 5 % of the steps and falls by a cosine to a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import islice
from random import Random
from time import monotonic

from agentrl.algo.batch import demo_batch
from agentrl.config import EnvConfig, RunConfig
from agentrl.env import TaskGenerator
from agentrl.errors import UserError
from agentrl.rollout.parts import Parts
from agentrl.seeds import derive
from agentrl.train.demos import demonstrations
from agentrl.train.learner import Learner
from agentrl.train.metrics import Sink
from agentrl.train.setup import env_factory
from agentrl.train.update import PAD
from agentrl.transcript import Transcript

WARMUP = 0.05
FINAL = 0.1
REPORT_EVERY = 20
"""Steps between two lines of metrics."""


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm-up, then cosine from `peak` to `FINAL * peak`."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * progress)))


async def demo_rows(config: RunConfig, parts: Parts, sinks: Sequence[Sink]) -> list[Transcript]:
    """`sft.pool` demonstrations of the environment's expert on training tasks.

    With `sft.also`, a share of them under other environment options comes last.
    """
    kinds = _kinds(config, parts)
    total = sum(count for _, count in kinds)
    started = last = monotonic()

    def tick(done: int) -> None:
        nonlocal last
        if monotonic() - last > 2 or done == total:
            last = monotonic()
            for sink in sinks:
                sink.note(f"{done}/{total} demonstrations in {last - started:.0f} s")

    rows: list[Transcript] = []
    async with AsyncExitStack() as opened:
        if parts.pool is not None:
            opened.push_async_callback(parts.pool.close)
            await parts.pool.open()
        for index, (kind, count) in enumerate(kinds):
            seed = derive(config.seed, "demos", index)
            tasks = list(islice(_generator(kind, config).tasks("train", seed=seed), count))
            before = len(rows)
            rows += await demonstrations(tasks, kind, seed, lambda n, b=before: tick(b + n))
    return rows


def _kinds(config: RunConfig, parts: Parts) -> list[tuple[Parts, int]]:
    """The kinds of demonstrations and how many of each."""
    sft = config.sft
    if sft.also is None:
        return [(parts, sft.pool)]
    env = EnvConfig.model_validate(config.env.model_dump() | dict(sft.also))
    n_also = round(sft.pool * sft.also_share)
    other = replace(parts, make_env=env_factory(env))
    return [(parts, sft.pool - n_also), (other, n_also)]


def _generator(parts: Parts, config: RunConfig) -> TaskGenerator:
    env = parts.make_env()
    if not isinstance(env, TaskGenerator):
        raise UserError(
            f"env {config.env.name!r} generates no tasks; give sft.path=conversations.jsonl"
        )
    return env


def fit(
    config: RunConfig,
    learner: Learner,
    rows: Sequence[Transcript],
    sinks: Sequence[Sink],
) -> None:
    """`sft.steps` optimiser steps over seeded shuffles of the rows."""
    order = _order(len(rows), config.sft.steps * config.sft.batch, config.seed)
    started = monotonic()
    for step in range(config.sft.steps):
        lr = learning_rate(step, config.sft.steps, config.sft.lr)
        learner.set_lr(lr)
        chosen = order[step * config.sft.batch : (step + 1) * config.sft.batch]
        learnt = learner.sft_update(demo_batch([rows[i] for i in chosen], pad_id=PAD))
        if step % REPORT_EVERY == 0 or step == config.sft.steps - 1:
            metrics = {**learnt, "lr": lr, "time_s": monotonic() - started}
            for sink in sinks:
                sink.step(step, metrics)


def _order(n_rows: int, wanted: int, seed: int) -> list[int]:
    """Row numbers of every step: whole seeded permutations, one after another."""
    order: list[int] = []
    for epoch in range(math.ceil(wanted / n_rows)):
        permutation = list(range(n_rows))
        Random(derive(seed, "sft", epoch)).shuffle(permutation)
        order.extend(permutation)
    return order[:wanted]
