"""What a run would do, found out without doing it: one episode with its mask, and the memory needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agentrl.config import RunConfig
from agentrl.errors import SetupError, UserError
from agentrl.history import HistoryStore
from agentrl.model_path import model_path
from agentrl.points import Ctx, needs_of
from agentrl.rollout.loop import run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.train import setup
from agentrl.train.assemble import called, make_episodes, make_method, make_overlap, make_update
from agentrl.train.collect import Method, score, shape
from agentrl.train.demands import check_demands, check_engine_trains, check_partners
from agentrl.train.estimate.memory import engine_memory, learner_memory
from agentrl.train.estimate.words import plan_from
from agentrl.train.loop import open_parts
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Origin
from agentrl.types import Task


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was found out."""

    spans: Sequence[tuple[Origin, str]] = ()
    """One episode's tokens as text, run by run of equal origin; empty when none was played."""
    memory_mb: Mapping[str, float] = field(default_factory=dict[str, float])
    """Estimated megabytes by what holds them; empty when the model's shape is not at hand."""
    notes: Sequence[str] = ()
    """What could not be tried, and why."""


def dry_run(config: RunConfig) -> DryRun:
    """Resolve every part; play one episode where the model's files are at hand.

    Raises what `train` would raise on bad input. A model that is not downloaded is a note.
    """
    check_engine_trains(config)
    make_env = setup.env_factory(config.env)
    env = make_env()
    update = make_update(config)
    make_overlap(config)
    notes: list[str] = []
    try:
        tasks: Sequence[Task] = setup.eval_tasks(setup.with_tasks(config, 1), env)
    except UserError as error:
        if config.data.path is None and config.data.hf is None:
            raise
        tasks = ()
        notes.append(f"no task was read: {error}")
    path = model_path(config.model.path)
    if not Path(path).is_dir():
        notes.append(
            f"{path} is not on this disk; its chat template, memory and one episode are checked "
            "when the run downloads it"
        )
        return DryRun(notes=notes)
    chat = setup.open_chat(config, env)
    try:
        engine = setup.make_engine(config, chat, path, tasks)
    except SetupError as error:
        return DryRun(memory_mb=memory(config, path), notes=[*notes, str(error)])
    parts = setup.make_parts(config, chat, make_env, engine, config.rollout.temperature)
    episodes = make_episodes(config, parts)
    method = make_method(config, setup.train_source(config, env), parts, episodes)
    check_demands(config, env, called(update, method))
    check_partners(config, method.plan, env)
    if not tasks:
        return DryRun(memory_mb=memory(config, path), notes=notes)
    played = asyncio.run(_play(tasks[0], parts, config.seed, method))
    if played.error is not None:
        notes.append(f"the episode failed: {played.error}")
    spans = [
        (segment.origin, chat.tokenizer.decode(segment.token_ids))
        for row in played.rows
        for segment in row.segments
    ]
    return DryRun(spans, memory(config, path), notes)


async def _play(task: Task, parts: Parts, seed: int, method: Method) -> Trajectory:
    """One episode, scored and shaped as a group of one: what a shaper misses, it says here."""
    async with AsyncExitStack() as opened:
        await open_parts(opened, parts.engine, parts.pool, parts.partners)
        played = await run_episode(task, parts, Names(seed, 0, task))
        asking = {need for reward in method.services.rewards for need in needs_of(reward)}
        if not asking & {"scorer", "judge"}:  # there is no learner here, and a judge may cost money
            ctx = Ctx(step=0, total_steps=1, seed=0)
            for group in await score([Group(task, (played,))], method.services):
                shape(group, method.shapers, HistoryStore(), ctx)
        return played


def memory(config: RunConfig, path: str) -> dict[str, float]:
    """Megabytes of a run on one device by `agentrl.train.estimate`: learner, and engine with its KV
    cache of all rows in flight. Empty for architectures that it has no formulas for.
    """
    try:
        model = config.model.model_copy(update={"path": path})
        plan = plan_from(config.model_copy(update={"model": model}), {"device": "CPU"})
    except UserError:
        return {}
    learner, engine = learner_memory(plan), engine_memory(plan)
    states = learner.parameters + learner.gradients + learner.optimizer + learner.frozen
    held = {
        "learner: weights, gradients, AdamW moments": states,
        "learner: activations, logits, temporaries": learner.total - states,
        "engine: weights": engine.weights,
        f"engine: KV cache of {plan.rows_per_engine} rows": engine.kv_cache,
        "engine: temporaries": engine.temporaries,
    }
    return {name: n_bytes / 2**20 for name, n_bytes in held.items()}
