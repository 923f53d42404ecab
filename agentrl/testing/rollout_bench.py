"""The scheduler by itself: the real rollout loop over a simulated engine and simulated tools.

Time is virtual, so tens of thousands of concurrent episodes cost only what the loop itself computes.
Everything between the engine and the tool is real: renderer, protocol, recorder, limiters, deadlines.
"""

from __future__ import annotations

import asyncio
import gc
import math
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from time import process_time

import numpy as np
import numpy.typing as npt

from agentrl.chat.base import Tokenizer
from agentrl.chat.nano import NanoRenderer
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.context import Context
from agentrl.engine.base import EngineStatistics, Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.engine.simulated import BatchedPace, Latency
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import SandboxError, UserError
from agentrl.evaluate.run import play
from agentrl.model_path import model_path
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Limits
from agentrl.rollout.loop import Episodes, RolloutStatistics
from agentrl.rollout.parts import Parts
from agentrl.rollout.plans.sample import Sample
from agentrl.rollout.slots import Slots
from agentrl.seeds import derive
from agentrl.testing.virtual_time import run_virtually
from agentrl.tool import Tool, call_tool
from agentrl.trajectory import Group
from agentrl.transcript import Int32Array
from agentrl.types import JsonValue, Message, Task

GROUP = 8
FOREVER_S = 1e9
"""Virtual seconds; deadlines are not what is studied."""
ROW_TOKENS = 1 << 16
DIGIT = "7"
"""What turns are made of."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal distribution: most are short, a few are very long."""

    mean: float
    sigma: float
    """Of the logarithm; 0 makes all equal."""

    def draw(self, seed: int) -> float:
        """The value that belongs to `seed`."""
        if not self.sigma:
            return self.mean
        # A log-normal of median m has the mean m exp(sigma^2 / 2).
        mu = math.log(self.mean) - self.sigma**2 / 2
        return Random(seed).lognormvariate(mu, self.sigma)


@dataclass(frozen=True, slots=True)
class Load:
    """What is played."""

    latency: Latency = field(default_factory=Latency)
    calls: int = 3
    """Tool calls of an episode; the answer follows."""
    turn_tokens: Lengths = Lengths(128.0, 0.5)
    tool_s: Lengths = Lengths(0.5, 1.0)
    tool_slots: int | None = None
    """Tool calls at once; None is as many as there are episodes."""
    fault_rate: float = 0.0
    """Share of tool calls that the world fails."""
    adaptive: bool = True
    """Whether generations in flight follow the engine's cache."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.calls < 0 or self.turn_tokens.mean < 4 or self.tool_s.mean < 0:
            raise UserError("a load has no negative numbers and at least 4 tokens a turn")
        if not 0 <= self.fault_rate < 1:
            raise UserError("fault_rate is at least 0 and below 1")


@dataclass(frozen=True, slots=True)
class Level:
    """What was found at one level of concurrency. `_s` without `cpu` is virtual time."""

    concurrent: int
    episodes: int
    failed: int
    cpu_ms_per_episode: float
    """Of this process: loop, renderer, protocol, recorder, and the simulation itself."""
    rss_kb_per_episode: float | None
    """Growth of resident memory at its highest, divided by the concurrent episodes; None: it did not
    grow beyond what the process had used before."""
    wall_s: float
    tokens_per_s: float
    engine_busy: float
    """Share of the time in which the engine computed."""
    preemptions: int
    slowdown: float
    """Median over episodes of their time divided by what they would take alone."""
    worst_slowdown: float
    jain: float
    """Jain's index of the slowdowns: 1 when all are equal, 1/n when one has everything."""
    longest_engine_wait_s: float
    longest_tool_wait_s: float


class _SlowTool:
    """Implements `agentrl.tool.Tool`: waits for a time drawn per call."""

    name, parallel = "python", False
    description = "Takes its time."
    schema: Mapping[str, JsonValue] = {
        "type": "object",
        "properties": {"code": {"type": "string"}},
        "required": ["code"],
    }

    def __init__(self, load: Load, seed: int) -> None:
        self._load, self._random = load, Random(seed)
        self.waited_s = 0.0

    async def open(self, ctx: Context) -> None:
        """Nothing to open."""

    async def __call__(self, **arguments: JsonValue) -> str:
        """Sleep, then answer or fail."""
        seconds = self._load.tool_s.draw(self._random.getrandbits(64))
        self.waited_s += seconds
        await asyncio.sleep(seconds)
        if self._random.random() < self._load.fault_rate:
            raise SandboxError("the simulated world failed")
        return "12"

    async def close(self) -> None:
        """Nothing to close."""


class _Quiz(Env):
    """Runs the tool until a turn calls nothing; then tells how much slower it was than alone."""

    protocol = "retool_bare"

    def __init__(self, load: Load, number: int, slowdowns: list[float]) -> None:
        """`number` tells environments of one load apart."""
        self._load, self._slowdowns, self._ctx = load, slowdowns, Context()
        self._number = number
        self._tool = _SlowTool(load, 0)
        self.tools: tuple[Tool, ...] = (self._tool,)
        self._began, self._tokens = 0.0, 0

    async def open(self, ctx: Context) -> None:
        """Its time begins."""
        self._ctx, self._began = ctx, asyncio.get_running_loop().time()

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The tool draws its own times for every sibling."""
        self._tool = _SlowTool(self._load, derive(seed, self._number))
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        """Call the tool, or end."""
        self._tokens += action.text.count(DIGIT) + 2
        if not action.tool_calls:
            took_s = asyncio.get_running_loop().time() - self._began
            alone_s = self._tokens * self._load.latency.step_s(1) + self._tool.waited_s
            self._slowdowns.append(took_s / alone_s)
            return StepResult((), 1.0, True, False, StepInfo())
        call = action.tool_calls[0]
        found = await call_tool({"python": self._tool}, call, self._ctx, timeout_s=FOREVER_S)
        shown = Message("tool", found.content, call_id=call.id, name=call.name)
        return StepResult((shown,), 0.0, False, False, StepInfo(results=(found,)))


class _Writer:
    """A script of ids: calls of drawn lengths, then an answer."""

    def __init__(self, load: Load, tokenizer: Tokenizer) -> None:
        self._load = load
        ids = [tokenizer.special_id(t) for t in ("<code>", "</code>", "<answer>", "</answer>")]
        self._open, self._close, self._answer, self._answered = (i or 0 for i in ids)
        self._digit = tokenizer.encode(DIGIT)[0]

    def __call__(self, row: Int32Array, sampling: Sampling, index: int) -> Sequence[int]:
        """The next turn of this row; its length depends on the request's seed alone."""
        n = max(4, min(round(self._load.turn_tokens.draw(sampling.seed)), sampling.max_tokens))
        if int((row == self._close).sum()) < self._load.calls:
            return [self._open, *[self._digit] * (n - 2), self._close]
        return [self._answer, *[self._digit] * (n - 3), self._answered, *sampling.stop_ids[:1]]


def study(
    load: Load, concurrent: int, episodes: int, arrived: Callable[[int], None] = lambda done: None
) -> Level:
    """Play `episodes` with `concurrent` in flight; `arrived` hears of the number done so far.

    Raises RuntimeError when the loop would wait for ever, UserError when no episode succeeds.
    """
    if concurrent < 1 or episodes < GROUP or episodes % GROUP:
        raise UserError(f"at least one episode at a time, and in all a multiple of {GROUP}")
    tokenizer = load_tokenizer(model_path("nano"))
    run_virtually(play_load(load, tokenizer, GROUP, GROUP, lambda done: None))  # imports, caches
    gc.collect()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = process_time()
    played = run_virtually(play_load(load, tokenizer, concurrent, episodes, arrived))
    cpu_s = process_time() - started
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    if not played.slowdowns:
        raise UserError("every episode failed: give the engine more kv_tokens, or fewer faults")
    slowdowns = np.array(played.slowdowns)
    engine, runner = played.engine, played.runner
    return Level(
        concurrent=concurrent,
        episodes=episodes,
        failed=runner.failed,
        cpu_ms_per_episode=1e3 * cpu_s / episodes,
        rss_kb_per_episode=grown_kb / min(concurrent, episodes) if grown_kb > 0 else None,
        wall_s=played.wall_s,
        tokens_per_s=engine.generated_tokens / played.wall_s,
        engine_busy=engine.busy_s / played.wall_s,
        preemptions=engine.preemptions,
        slowdown=float(np.median(slowdowns)),
        worst_slowdown=float(slowdowns.max()),
        jain=jain(slowdowns),
        longest_engine_wait_s=runner.engine.longest_wait_s,
        longest_tool_wait_s=runner.tools.longest_wait_s,
    )


def jain(values: npt.NDArray[np.float64]) -> float:
    """(sum x)^2 / (n sum x^2): Jain, Chiu and Hawe (1984), DEC-TR-301, section 2."""
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


@dataclass(frozen=True, slots=True)
class PlayedLoad:
    """What was read off at the end of a load; seconds are virtual."""

    wall_s: float
    engine: EngineStatistics
    runner: RolloutStatistics
    slowdowns: Sequence[float]


async def play_load(
    load: Load,
    tokenizer: Tokenizer,
    concurrent: int,
    episodes: int,
    arrived: Callable[[int], None],
) -> PlayedLoad:
    """Play `episodes`, a multiple of GROUP, with `concurrent` in flight, on a virtual-time loop."""
    slowdowns: list[float] = []
    numbers, done = count(), 0
    renderer = NanoRenderer(tokenizer)
    pace = BatchedPace(load.latency)
    writer = _Writer(load, tokenizer)
    engine = ScriptedEngine(writer, tokenizer=tokenizer, max_context=ROW_TOKENS, pace=pace)
    parts = Parts(
        make_env=lambda: _Quiz(load, next(numbers), slowdowns),
        engine=engine,
        renderer=renderer,
        protocol=ReTool(fence=False),
        limits=Limits(
            max_turns=load.calls + 1, max_calls=load.calls, max_tokens=ROW_TOKENS,
            turn_tokens=ROW_TOKENS, episode_s=None, setup_s=FOREVER_S, generate_s=FOREVER_S,
            step_s=FOREVER_S,
        ),
        sampling=Sampling(max_tokens=1),
        tool_slots=Slots(load.tool_slots or concurrent, name="tool slot"),
    )  # fmt: skip
    runner = Episodes(parts, seed=load.seed, in_flight=concurrent, adaptive=load.adaptive)

    def group_arrived(group: Group) -> None:
        nonlocal done
        done += len(group.trajectories)
        arrived(done)

    tasks = [Task(f"t{i}", "Q", "1") for i in range(episodes // GROUP)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await play(
        tasks, Sample(group_size=GROUP), Services(runner), Ctx(0, 1, load.seed), group_arrived
    )
    return PlayedLoad(loop.time() - began, engine.statistics(), runner.statistics(), slowdowns)


__all__ = ["Lengths", "Level", "Load", "PlayedLoad", "jain", "play_load", "study"]
