"""The one multi-turn loop: generate, parse, step, render, until an ending.

env.reset -> renderer -> engine.generate -> protocol.parse -> env.step -> protocol.present ->
renderer -> ... Each episode is a task of its own, so a slow tool delays one trajectory. Ids are only
ever appended: what the model sampled is never decoded, edited and re-encoded. A failure of the world
ends the episode as data; our own faults crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import TypeVar

from agentrl.chat.base import Inline, Renderer, ToolProtocol
from agentrl.chat.opening import open_conversation
from agentrl.context import Context, Limiter
from agentrl.engine.base import Engine, Generation, Sampling
from agentrl.env import Action, Env, StepResult
from agentrl.errors import AgentRLError, DeadlineExceeded, EngineError, ModelFault, WorldFault
from agentrl.points import Ctx, Patch
from agentrl.rollout.limits import Lease, Limits, Slots, clip_observation
from agentrl.rollout.recorder import Recorder
from agentrl.sandbox import SandboxPool
from agentrl.seeds import derive
from agentrl.trajectory import StopReason, Trajectory
from agentrl.types import Task

T = TypeVar("T")


class EnvFault(WorldFault, RuntimeError):
    """An environment raised something of its own; the trajectory cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What every episode of a run shares."""

    make_env: Callable[[], Env]
    engine: Engine
    renderer: Renderer
    protocol: ToolProtocol
    limits: Limits
    sampling: Sampling
    """Temperature, top-p, top-k and entropies; tokens, stops and seed are set per turn."""
    tool_slots: Limiter
    pool: SandboxPool | None = None


@dataclass(frozen=True, slots=True)
class Seeds:
    """The two seeds of an episode: siblings share the environment's, never the sampling's."""

    env: int
    sampling: int

    def turn(self, turn: int) -> int:
        """The sampling seed of one generation."""
        return derive(self.sampling, turn, 0)


async def run_episode(
    task: Task, parts: Parts, *, uid: str, sibling: int, seeds: Seeds, demo: bool = False
) -> Trajectory:
    """One finished trajectory. The world's failures are in its `error`; `close` always runs."""
    recorder = Recorder(task=task, uid=uid, sibling=sibling, seed=seeds.sampling, demo=demo)
    lease = Lease(parts.pool)
    env = parts.make_env()
    limit_s = parts.limits.episode_s
    ctx = Context(
        lease_sandbox=lease.get,
        tool_limiter=parts.tool_slots,
        deadline=None if limit_s is None else monotonic() + limit_s,
        seed=seeds.env,
    )
    try:
        async with asyncio.timeout(limit_s):
            stop = await _play(env, ctx, parts, recorder, seeds)
        trajectory = recorder.finish(stop)
    except WorldFault as error:
        trajectory = recorder.finish(StopReason.ERROR, _told(error))
    except TimeoutError:
        trajectory = _out_of_time(recorder, limit_s)
    finally:
        await asyncio.shield(_close(env, lease, parts.limits.close_s))
    return trajectory


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _out_of_time(recorder: Recorder, limit_s: float | None) -> Trajectory:
    """A deadline before the first prompt leaves nothing to train on: the world was too slow."""
    if len(recorder.row):
        return recorder.finish(StopReason.DEADLINE)
    slow = DeadlineExceeded(f"the environment did not start within {limit_s:g} s")
    return recorder.finish(StopReason.ERROR, _told(slow))


async def _close(env: Env, lease: Lease, close_s: float) -> None:
    try:
        await _within(close_s, _of_env(env.close()))
    finally:
        await _within(close_s, lease.close())


async def _within(close_s: float, closing: Awaitable[None]) -> None:
    """Await a release; the verdict is in, so the world's failures no longer matter."""
    with suppress(TimeoutError, WorldFault):
        async with asyncio.timeout(close_s):
            await closing


async def _of_env(call: Awaitable[T]) -> T:
    """Await a call into the environment; what it raises of its own becomes an EnvFault."""
    try:
        return await call
    except AgentRLError as error:
        if not isinstance(error, ModelFault):
            raise
        raise EnvFault(f"the environment let {type(error).__name__} pass: {error}") from error
    except Exception as error:
        raise EnvFault(f"the environment raised {type(error).__name__}: {error}") from error


async def _play(
    env: Env, ctx: Context, parts: Parts, recorder: Recorder, seeds: Seeds
) -> StopReason:
    await _of_env(env.open(ctx))
    first = await _of_env(env.reset(recorder.task, seed=seeds.env))
    opening = open_conversation(parts.protocol, first, env.tools)
    recorder.prompt(opening.messages, parts.renderer.prompt_ids(opening.messages, opening.tools))
    unreadable = 0
    for turn in range(parts.limits.max_turns):
        room, full = _room(recorder, parts)
        if room <= 0:
            return full
        generation = await _generate(parts, recorder, room, seeds.turn(turn))
        if generation.stop == "abort":
            raise EngineError("the engine aborted the request")
        text = _text(parts, generation)
        if generation.stop == "length":
            recorder.acted(Action(text))
            return StopReason.TURN_TOKENS if room == parts.limits.turn_tokens else full
        action = parts.protocol.parse(generation.token_ids, text, turn=turn)
        recorder.acted(action)
        unreadable = unreadable + 1 if action.parse_error else 0
        if action.parse_error:
            recorder.unreadable(action)
        if unreadable > parts.limits.max_parse_errors:
            return StopReason.PARSE_ERRORS
        if recorder.n_calls + len(action.tool_calls) > parts.limits.max_calls:
            return StopReason.MAX_CALLS
        result = await _of_env(env.step(action))
        if _record(result, action, generation, recorder, parts):
            return StopReason.TERMINATED if result.terminated else StopReason.ENV_TRUNCATED
    return StopReason.MAX_TURNS


def _text(parts: Parts, generation: Generation) -> str:
    """What the model wrote, without the id that ended its turn."""
    ids = generation.token_ids[:-1] if generation.stop == "stop_id" else generation.token_ids
    return parts.renderer.tokenizer.decode(ids)


def _room(recorder: Recorder, parts: Parts) -> tuple[int, StopReason]:
    """Tokens the next generation may have, and the ending to report when it uses them all."""
    budget = parts.limits.max_tokens - len(recorder.row)
    context = parts.engine.max_context - len(recorder.row)
    full = StopReason.MAX_TOKENS if budget <= context else StopReason.CONTEXT
    return min(parts.limits.turn_tokens, budget, context), full


async def _generate(parts: Parts, recorder: Recorder, room: int, seed: int) -> Generation:
    sampling = replace(
        parts.sampling,
        max_tokens=room,
        stop=parts.protocol.stops,
        stop_ids=parts.renderer.stop_ids,
        seed=seed,
    )
    started = monotonic()
    try:
        async with asyncio.timeout(parts.limits.generate_s):
            generation = await parts.engine.generate(recorder.row.token_ids, sampling)
    except TimeoutError as error:
        raise EngineError(f"no generation within {parts.limits.generate_s:g} s") from error
    recorder.generated(generation, sampling.temperature or 1.0, monotonic() - started)
    return generation


def _record(
    result: StepResult, action: Action, generation: Generation, recorder: Recorder, parts: Parts
) -> bool:
    """Write one step down; True when the environment ended the episode."""
    tokenizer = parts.renderer.tokenizer
    observation, cut = clip_observation(
        result.observation, parts.limits.observation_tokens, tokenizer
    )
    recorder.stepped(action, result, cut)
    if result.terminated or result.truncated:
        return True
    ended = generation.stop == "stop_id"
    presented = parts.protocol.present(observation, text=action.text, ended=ended)
    if isinstance(presented, Inline):
        spans = parts.renderer.inline(presented)
    else:
        spans = parts.renderer.delta(presented.messages, ended=ended)
    recorder.observed(observation, spans)
    return False


class Episodes:
    """Runs episodes for plans: seeds them, bounds how many are in flight, retries the world's faults."""

    def __init__(self, parts: Parts, *, seed: int, in_flight: int = 128, retries: int = 2) -> None:
        self.parts = parts
        self._seed = seed
        self._slots = Slots(in_flight)
        self._retries = retries

    def seeds(self, task: Task, sibling: int, step: int, repeat: int = 0) -> Seeds:
        """H(run, step, task, sibling) for sampling; the task's own seed for the environment."""
        again = (repeat,) if repeat else ()
        return Seeds(
            env=derive(self._seed, task.id, task.seed),
            sampling=derive(self._seed, step, task.id, sibling, *again),
        )

    async def run(self, task: Task, sibling: int, ctx: Ctx) -> Trajectory:
        """One finished trajectory; after `retries` fresh attempts the last failure is returned."""
        uid = f"{ctx.step}/{task.id}/{sibling}" + (f"+{ctx.repeat}" if ctx.repeat else "")
        seeds = self.seeds(task, sibling, ctx.step, ctx.repeat)
        parts = patched(self.parts, ctx.patch)
        async with self._slots.slot():
            for attempt in range(self._retries):
                trajectory = await run_episode(task, parts, uid=uid, sibling=sibling, seeds=seeds)
                if trajectory.error is None:
                    return trajectory
                await asyncio.sleep(0.1 * 2**attempt)
            return await run_episode(task, parts, uid=uid, sibling=sibling, seeds=seeds)


def patched(parts: Parts, patch: Patch) -> Parts:
    """The parts with the temperature and the row length that schedules have set."""
    if patch.temperature is not None:
        parts = replace(parts, sampling=replace(parts.sampling, temperature=patch.temperature))
    if patch.max_tokens is not None:
        at_most = min(patch.max_tokens, parts.limits.max_tokens)
        parts = replace(parts, limits=replace(parts.limits, max_tokens=at_most))
    return parts
