"""The training loop, read top-down: collect -> batch -> advantage -> update -> sync -> report.

Deviations from DeepSeekMath's GRPO (arXiv 2402.03300), all set in `configs/algo/grpo.yaml`: the loss
is averaged over tokens (DAPO), there is no KL term, and the standard deviation is the sample's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import NamedTuple

from agentrl.algo.advantage import estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate
from agentrl.algo.offpolicy import Correction
from agentrl.config import AlgoConfig
from agentrl.engine.base import Engine
from agentrl.evaluate.report import EvalReport, report
from agentrl.evaluate.run import play
from agentrl.history import HistoryStore
from agentrl.points import (
    Advantage,
    AuxTerm,
    Ctx,
    PolicyLoss,
    RolloutPlan,
    Schedule,
    Services,
    combined,
)  # fmt: skip
from agentrl.sandbox import SandboxPool
from agentrl.train.collect import Collected, Method, collect
from agentrl.train.learner import Learner
from agentrl.train.metrics import Sink, rollout_metrics
from agentrl.train.sync import Sync
from agentrl.trajectory import Trajectory
from agentrl.types import JsonValue, Task

PAD = 0
"""Padding is never attended to, so any id serves."""


@dataclass(frozen=True, slots=True)
class Update:
    """The extension points of the optimiser step."""

    advantage: Advantage
    loss: PolicyLoss
    aux: tuple[AuxTerm, ...]
    schedules: tuple[Schedule, ...]
    correction: Correction
    algo: AlgoConfig


@dataclass(frozen=True, slots=True)
class Exam:
    """The evaluation a run repeats."""

    every: int
    """Steps between evaluations; 0 for none."""
    tasks: Sequence[Task]
    plan: RolloutPlan
    services: Services


@dataclass(frozen=True, slots=True)
class Run:
    """Everything one training run is made of."""

    seed: int
    total_steps: int
    tasks_per_step: int
    engine: Engine
    pool: SandboxPool | None
    learner: Learner
    method: Method
    update: Update
    sync: Sync
    exam: Exam
    sinks: Sequence[Sink]
    keep: Callable[[Trajectory], None]
    """Writes one trajectory to the run folder."""
    save: Callable[[State, bool], None]
    """Writes a checkpoint of a step boundary; the flag marks the best so far."""
    checkpoint_every: int


@dataclass(slots=True)
class State:
    """What a step boundary is, beside the learner: everything a checkpoint must hold."""

    step: int = 0
    """Steps finished."""
    history: HistoryStore = field(default_factory=HistoryStore)
    source: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """The task source's state at the boundary."""
    best: float = -math.inf
    """Best evaluated accuracy so far."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    saved: int = -1
    """Step of the newest checkpoint."""
    whole: bool = True
    """False while the learner is ahead of `step`: what no checkpoint may hold."""


async def train(run: Run, state: State) -> None:
    """Train until `total_steps`. Interrupted, it leaves a checkpoint of the last step boundary."""
    async with AsyncExitStack() as opened:
        await open_parts(opened, run.engine, run.pool)
        try:
            await run.sync()
            first = await _examine(run, state)
            if first.best and state.step > 0:
                _save(run, state, best=True)
            while state.step < run.total_steps:
                await _step(run, state)
        finally:
            if state.whole and state.step > 0 and state.saved != state.step:
                _save(run, state, best=False)


async def open_parts(opened: AsyncExitStack, engine: Engine, pool: SandboxPool | None) -> None:
    """Open what episodes need; closed with the stack, the pool last."""
    if pool is not None:
        opened.push_async_callback(pool.close)
        await pool.open()
    opened.push_async_callback(engine.close)
    await engine.open()


async def _step(run: Run, state: State) -> None:
    """One step. Everything up to the next boundary happens between two awaits, so that an
    interrupt finds either the old boundary or the new one."""
    started = monotonic()
    ctx = Ctx(step=state.step, total_steps=run.total_steps, seed=run.seed, metrics=state.metrics)
    collected = await collect(run.method, state.history, ctx, run.tasks_per_step)
    rollout_s = monotonic() - started

    metrics = rollout_metrics(collected.everyone) | _gate_metrics(collected)
    state.whole = False
    metrics |= _learn(run, collected, ctx)
    state.history.commit(collected.writes)
    run.method.source.observe(collected.everyone, ctx)
    learner_s = monotonic() - started - rollout_s
    for group in collected.everyone:
        for trajectory in group.trajectories:
            run.keep(trajectory)
    state.step += 1
    state.source = run.method.source.state()
    state.metrics = metrics
    state.whole = True
    sampled = sum(t.n_sampled for group in collected.everyone for t in group.trajectories)
    metrics |= {"rollout_s": rollout_s, "learner_s": learner_s, "tokens_per_s": sampled / rollout_s}

    best = False
    try:
        metrics["probe_gap"] = await run.sync()
        metrics["time_s"] = monotonic() - started
        found = await _examine(run, state)
        metrics |= found.metrics
        best = found.best
    finally:  # interrupted or not, the step was taken and has its line
        for sink in run.sinks:
            sink.step(ctx.step, metrics)
    if best or state.step % run.checkpoint_every == 0 or state.step == run.total_steps:
        _save(run, state, best=best)


def _learn(run: Run, collected: Collected, ctx: Ctx) -> dict[str, float]:
    """The optimiser step on the kept groups."""
    update = run.update
    patch = combined(schedule.at(ctx) for schedule in update.schedules)
    if patch.lr is not None:
        run.learner.set_lr(patch.lr)
    if patch.reset_reference:
        run.learner.snapshot_reference()
    if patch.reset_optimizer:
        run.learner.reset_optimizer()
    batch = estimate(update.advantage, make_batch(collected.kept, pad_id=PAD), ctx)
    learnt = run.learner.update(
        batch,
        loss=update.loss,
        aggregate=Aggregate(update.algo.aggregate, update.algo.aggregate_length),
        aux=update.aux,
        correction=update.correction,
        minibatches=update.algo.minibatches,
        ctx=ctx,
    )
    assert batch.advantages is not None
    zero = (batch.advantages.abs().amax(1) == 0).float().mean()
    return {**learnt, "zero_advantage_rows": float(zero)}


def _gate_metrics(collected: Collected) -> dict[str, float]:
    counts = {f"gate/{reason}": float(n) for reason, n in sorted(collected.dropped.items())}
    return {"groups": float(len(collected.kept)), "rounds": float(collected.rounds)} | counts


class Examined(NamedTuple):
    """What a step's evaluation, if it was due, adds."""

    metrics: Mapping[str, float]
    best: bool
    """It is better than every one before."""


async def _examine(run: Run, state: State) -> Examined:
    """Evaluate at step 0, every `every` steps and at the end."""
    due = state.step % run.exam.every == 0 if run.exam.every else False
    if not due and not (run.exam.every and state.step == run.total_steps):
        return Examined({}, False)
    started = monotonic()
    found = await examine(run.exam, run.seed, run.total_steps)
    for sink in run.sinks:
        sink.note(f"step {state.step}: {told(found)}")
    best = found.accuracy.value > state.best
    state.best = max(state.best, found.accuracy.value)
    metrics = {
        "eval/accuracy": found.accuracy.value,
        "eval/accuracy_low": found.accuracy.low,
        "eval/accuracy_high": found.accuracy.high,
        "eval/calls": found.calls,
        "eval_s": monotonic() - started,
    }
    return Examined(metrics, best)


async def examine(exam: Exam, seed: int, total_steps: int) -> EvalReport:
    """Play the exam's tasks; sampling seeds are the same at every step of a run."""
    ctx = Ctx(step=0, total_steps=total_steps, seed=seed)
    groups = await play(exam.tasks, exam.plan, exam.services, ctx, arrived=lambda _: None)
    return report(groups)


def told(found: EvalReport) -> str:
    """One line for people."""
    low, high = found.accuracy.low, found.accuracy.high
    return (
        f"accuracy {found.accuracy.value:.3f} (95 % {low:.3f} to {high:.3f}) on {found.tasks} tasks, "
        f"{found.calls:.2f} calls an episode, {found.truncated:.1%} truncated, {found.errors:.1%} failed"
    )


def _save(run: Run, state: State, *, best: bool) -> None:
    run.save(replace(state, saved=state.step), best)
    state.saved = state.step
