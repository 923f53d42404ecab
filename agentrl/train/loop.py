"""The training loop, read top-down: collect -> batch -> advantage -> update -> sync -> report.

How rollouts and updates share the time is the feed's business (`agentrl.train.feed`).

Deviations from DeepSeekMath's GRPO (arXiv 2402.03300), all set in `configs/algo/grpo.yaml`: the loss
is averaged over tokens (DAPO), there is no KL term, and the standard deviation is the sample's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import NamedTuple

from agentrl.algo.batch import demo_batch
from agentrl.engine.base import Engine
from agentrl.errors import RunFailed
from agentrl.points import PAST, Adaptive, Ctx, combined
from agentrl.rollout.flow_metrics import Readings, flow_metrics
from agentrl.sandbox import SandboxPool
from agentrl.train import exam, replay
from agentrl.train.alarms import Alarms
from agentrl.train.collect import Collected, Method
from agentrl.train.exam import Exam
from agentrl.train.feed import Feed, InTurn, OneAhead, Overlap
from agentrl.train.flow import Flow
from agentrl.train.inflight import InFlight
from agentrl.train.learner import Learner
from agentrl.train.metrics import Sink, rollout_metrics
from agentrl.train.off_loop import off_loop
from agentrl.train.staleness import staleness
from agentrl.train.state import State
from agentrl.train.sync import Sync
from agentrl.train.unwritten import Unwritten
from agentrl.train.update import PAD, Update, learn
from agentrl.trajectory import Trajectory
from agentrl.transcript import Transcript
from agentrl.types import Task

Demonstrate = Callable[[Sequence[Task], int], Awaitable[Sequence[Transcript]]]
"""Tasks and a seed -> the rows of their experts."""


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
    readings: Callable[[], Readings]
    """Counts of the rollouts and of the engine at this moment."""
    save: Callable[[State, bool], None]
    """Writes a checkpoint of a step boundary; the flag marks the best so far."""
    checkpoint_every: int
    alarms: Alarms
    demonstrate: Demonstrate
    overlap: Overlap = field(default_factory=Overlap)
    unwritten: Unwritten = field(default_factory=Unwritten)
    """Hears of the episodes of `sync`; what overlapped modes have played is in the checkpoint."""


async def train(run: Run, state: State) -> None:
    """Train until `total_steps`. Interrupted, it leaves a checkpoint of the last step boundary."""
    async with AsyncExitStack() as opened:
        await open_parts(opened, run.engine, run.pool, run.method.services.partners)
        try:
            await run.sync()
            first = await _examine(run, state)
            if first.best and state.step > 0:
                _save(run, state, best=True)
            async with _feed(run, state) as feed:
                try:
                    while state.step < run.total_steps:
                        await _step(run, state, feed)
                finally:  # what was played since the boundary need not be played again
                    state.played = feed.played()
        finally:
            if state.whole and state.step > 0 and state.saved != state.step:
                _save(run, state, best=False)


async def open_parts(
    opened: AsyncExitStack,
    engine: Engine,
    pool: SandboxPool | None,
    partners: Mapping[str, Engine],
) -> None:
    """Open what episodes need; closed with the stack, the pool last.

    Each partner is opened once; roles that the policy plays are open with it.
    """
    if pool is not None:
        opened.push_async_callback(pool.close)
        await pool.open()
    opened.push_async_callback(engine.close)
    await engine.open()
    for partner in {id(p): p for p in partners.values() if p is not engine}.values():
        opened.push_async_callback(partner.close)
        await partner.open()


def _feed(run: Run, state: State) -> Feed:
    """Where the steps' groups come from, going on from the boundary."""
    overlap, n = run.overlap, run.tasks_per_step
    if overlap.mode == "sync":
        return InTurn(run.method, n)
    inflight = InFlight(run.method, run.engine, overlap.stuck_s, state.played)
    if overlap.mode == "one_step_off":
        return OneAhead(run.method, n, state.left, inflight)
    return Flow(run.method, n, overlap.max_staleness, state.left, inflight)


async def _step(run: Run, state: State, feed: Feed) -> None:
    """One step. Nothing from the beginning of the update up to the next boundary can be
    interrupted, so that an interrupt finds either the old boundary or the new one."""
    started = monotonic()
    ctx = _context(run, state)
    before, version = run.readings(), run.learner.version
    try:
        collected = await feed.collected(state.history, ctx, state.replay, version)
        taught = _diverted(state, collected)
        demos = await _demonstrations(run, taught, ctx)
    except BaseException:
        for trajectory in run.unwritten.taken():
            run.keep(trajectory)
        raise
    rollout_s = monotonic() - started

    metrics = rollout_metrics(collected.everyone) | _gate_metrics(collected)
    metrics |= flow_metrics(before, run.readings(), rollout_s)
    if run.overlap.mode == "sync":
        state.whole = False
        metrics |= _learnt(run, collected, demos, ctx)
    else:
        metrics |= staleness(collected.fresh, version)
        feed.learning()
        async with run.overlap.busy:
            state.whole = False
            metrics |= await off_loop(partial(_learnt, run, collected, demos, ctx))
    state.history.commit(collected.writes)
    _observed(run, state, collected, ctx)
    learner_s = monotonic() - started - rollout_s
    for group in collected.everyone:
        for trajectory in group.trajectories:
            run.keep(trajectory)
            state.written += 1
    run.unwritten.taken()
    state.step += 1
    feed.learnt()
    state.left, state.played = feed.left(), feed.played()
    state.past = (*state.past, dict(metrics))[-PAST:]
    state.patch = replace(ctx.patch, anchor=None, reset_reference=False, reset_optimizer=False)
    state.failed = () if demos else taught
    capacity = run.update.algo.replay.capacity
    state.replay = replay.remembered(collected.stored, collected.remember, capacity)
    state.whole = True
    sampled = sum(t.n_sampled for group in collected.everyone for t in group.trajectories)
    busy_s = rollout_s if run.overlap.mode == "sync" else rollout_s + learner_s
    metrics |= {"rollout_s": rollout_s, "learner_s": learner_s, "tokens_per_s": sampled / busy_s}
    await _report(run, state, feed, ctx, metrics, started)


def _context(run: Run, state: State) -> Ctx:
    """Where the step stands, with what its schedules change already in force."""
    ctx = Ctx(
        step=state.step,
        total_steps=run.total_steps,
        seed=run.seed,
        metrics=state.past[-1] if state.past else {},
        past=state.past,
        patch=state.patch,
    )
    changed = combined(schedule.at(ctx) for schedule in run.update.schedules)
    return replace(ctx, patch=combined((state.patch, changed)))


def _diverted(state: State, collected: Collected) -> tuple[Task, ...]:
    """Tasks that wait for a demonstration, each once."""
    new = [group.task for group in collected.diverted.get("sft", ())]
    return tuple({task.id: task for task in (*state.failed, *new)}.values())


async def _demonstrations(run: Run, taught: Sequence[Task], ctx: Ctx) -> Sequence[Transcript]:
    """The experts' rows once enough tasks wait for them; nothing before."""
    queue = run.update.algo.demos.queue
    if not queue or len(taught) < queue:
        return ()
    return await run.demonstrate(taught, ctx.step)


def _learnt(
    run: Run, collected: Collected, demos: Sequence[Transcript], ctx: Ctx
) -> dict[str, float]:
    """The step's update, and the supervised one that may follow it."""
    return learn(run.update, run.learner, collected.kept, ctx) | _supervise(run, demos)


def _observed(run: Run, state: State, collected: Collected, ctx: Ctx) -> None:
    """Tell whoever learns from the steps, and note what they learnt."""
    run.method.source.observe(collected.everyone, ctx)
    state.source = run.method.source.state()
    plan = run.method.plan
    if isinstance(plan, Adaptive):
        plan.observe(collected.everyone, ctx)
        state.plan = plan.state()


def _supervise(run: Run, demos: Sequence[Transcript]) -> dict[str, float]:
    """One supervised step on the demonstrations (ReLIFT, 2506.07527), if there are any."""
    if not demos:
        return {}
    learnt = run.learner.sft_update(demo_batch(demos, pad_id=PAD), run.update.algo.demos.lr)
    return {"demos/rows": float(len(demos))} | {f"demos/{k}": v for k, v in learnt.items()}


async def _report(
    run: Run, state: State, feed: Feed, ctx: Ctx, metrics: dict[str, float], started: float
) -> None:
    """Sync, evaluate if it is due, write the step's line, save, and raise what must not go on."""
    best = False
    warnings: list[str] = []
    stop: RunFailed | None = None
    try:
        await feed.settled()
        async with run.overlap.busy:
            metrics["probe_gap"] = await run.sync()
        metrics["time_s"] = monotonic() - started
        metrics |= feed.metrics()
        found = await _examine(run, state)
        metrics |= found.metrics
        state.past = (*state.past[:-1], {**state.past[-1], **found.metrics})
        best = found.best
        feed.synced()
    finally:  # interrupted or not, the step was taken and has its line
        try:
            warnings = run.alarms.check(metrics, state.past[:-1])
        except RunFailed as error:
            stop = error
        for sink in run.sinks:
            sink.step(ctx.step, metrics)
            for warning in warnings:
                sink.note(warning)
    if best or state.step % run.checkpoint_every == 0 or state.step == run.total_steps:
        if run.overlap.mode == "sync":
            _save(run, state, best=best)
        else:
            async with run.overlap.busy:
                await off_loop(partial(_save, run, state, best=best))
    if stop is not None:
        raise stop


def _gate_metrics(collected: Collected) -> dict[str, float]:
    counts = {f"gate/{reason}": float(n) for reason, n in sorted(collected.dropped.items())}
    queues = {f"diverted/{q}": float(len(gs)) for q, gs in sorted(collected.diverted.items())}
    return {
        "groups": float(len(collected.kept)),
        "rounds": float(collected.rounds),
        **({"replayed": float(collected.replayed)} if collected.replayed else {}),
        **counts,
        **queues,
    }


class Examined(NamedTuple):
    """What a step's evaluation, if it was due, adds."""

    metrics: Mapping[str, float]
    best: bool
    """It is better than every one before."""


async def _examine(run: Run, state: State) -> Examined:
    """Evaluate where it is due."""
    if not run.exam.due(state.step, run.total_steps):
        return Examined({}, False)
    started = monotonic()
    found = await run.exam.sit(run.seed, run.total_steps)
    for sink in run.sinks:
        sink.note(f"step {state.step}: {exam.told(found)}")
    best = found.accuracy.value > state.best
    state.best = max(state.best, found.accuracy.value)
    return Examined(exam.metrics(found) | {"eval_s": monotonic() - started}, best)


def _save(run: Run, state: State, *, best: bool) -> None:
    run.save(replace(state, saved=state.step), best)
    state.saved = state.step
