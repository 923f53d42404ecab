"""A small world for episodes: nano's format, a scripted engine, and an environment with one tool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agentrl.chat.base import Renderer, Tokenizer
from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.context import Context
from agentrl.engine.base import Generation, Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.points import Services
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.loop import Episodes, run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.tool import FunctionTool, Tool, tool
from agentrl.trajectory import Trajectory
from agentrl.types import Message, Task
from agentrl_envs.tool_env import ToolEnv

Run = Callable[[str], Awaitable[str]]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def renderer(tokenizer: Tokenizer) -> NanoRenderer:
    return NanoRenderer(tokenizer)


@dataclass
class Log:
    """What the environments of a test went through."""

    closed: int = 0
    opened: int = 0
    code: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    env_seeds: list[int] = field(default_factory=list)


class Quiz(ToolEnv):
    """One question; the tool `python` runs a function of the test; a turn without a call ends it."""

    def __init__(self, run: Run, log: Log) -> None:
        self.log = log

        async def python(code: str) -> str:
            """Run code.

            Args:
                code: the code.
            """
            log.code.append(code)
            log.running += 1
            log.most_running = max(log.most_running, log.running)
            try:
                return await run(code)
            finally:
                log.running -= 1

        made: FunctionTool = tool(python)
        super().__init__([made], max_calls=99)

    async def open(self, ctx: Context) -> None:
        self.log.opened += 1
        await super().open(ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.log.env_seeds.append(seed)
        return await super().reset(task, seed=seed)

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def judge(self, action: Action) -> StepResult:
        right = f"<answer>{self.task.answer}</answer>" in action.text
        return StepResult((), float(right), True, False, StepInfo(answer=action.text))

    async def close(self) -> None:
        self.log.closed += 1
        await super().close()


class Bare(Env):
    """An environment whose parts a test replaces."""

    tools: tuple[Tool, ...] = ()

    def __init__(self, log: Log | None = None, **parts: Callable[..., Awaitable[Any]]) -> None:
        self.log, self.parts = log or Log(), parts

    async def open(self, ctx: Context) -> None:
        if "open" in self.parts:
            await self.parts["open"](ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        if "reset" in self.parts:
            await self.parts["reset"](task)
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if "step" in self.parts:
            return await self.parts["step"](action)
        return StepResult((Message("user", "on"),), 0.0, False, False, StepInfo())

    async def close(self) -> None:
        self.log.closed += 1
        if "close" in self.parts:
            await self.parts["close"]()


class Rows(ScriptedEngine):
    """A scripted engine that remembers each row it was given and each sampling setting."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rows: list[list[int]] = []
        self.samplings: list[Sampling] = []
        self.generated: list[list[int]] = []

    async def generate(self, token_ids: Any, sampling: Sampling) -> Generation:
        self.rows.append(np.asarray(token_ids).tolist())
        self.samplings.append(sampling)
        generation = await super().generate(token_ids, sampling)
        self.generated.append(generation.token_ids.tolist())
        return generation


@dataclass
class World:
    """Makes the parts of an episode and plays them."""

    renderer: Renderer
    log: Log = field(default_factory=Log)
    task: Task = field(default_factory=lambda: Task("t", "Q", "4", seed=3))

    def turns(self, *turns: str | Sequence[int] | Reply, **options: Any) -> Rows:
        """An engine that plays `turns` by request number; the last one goes on for ever."""
        return self.script(lambda row, sampling, i: turns[min(i, len(turns) - 1)], **options)

    def script(self, script: Any, **options: Any) -> Rows:
        return Rows(
            script,
            tokenizer=self.renderer.tokenizer,
            encode=self.renderer.demo,
            end_id=self.renderer.stop_ids[0],
            **options,
        )

    def quiz(self, run: Run | None = None) -> Callable[[], Env]:
        async def echo(code: str) -> str:
            return code

        return lambda: Quiz(run or echo, self.log)

    def parts(
        self, engine: Any, make_env: Callable[[], Env] | None = None, **changes: Any
    ) -> Parts:
        """Changes name fields of Limits, or of Parts."""
        limits = {k: changes.pop(k) for k in list(changes) if k in Limits.__dataclass_fields__}
        given: dict[str, Any] = {
            "make_env": make_env or self.quiz(),
            "engine": engine,
            "renderer": self.renderer,
            "protocol": ReTool(fence=False),
            "limits": Limits(**limits),
            "sampling": Sampling(max_tokens=1),
            "tool_slots": Slots(64),
            **changes,
        }
        return Parts(**given)

    async def play(
        self, engine: Any, make_env: Callable[[], Env] | None = None, **changes: Any
    ) -> Trajectory:
        demo = changes.pop("demo", False)
        parts = self.parts(engine, make_env, **changes)
        return await run_episode(self.task, parts, Names(9, 0, self.task), demo=demo)

    def bare(self, **parts: Callable[..., Awaitable[Any]]) -> Callable[[], Env]:
        """Makes an environment from replaced methods."""
        return lambda: Bare(self.log, **parts)


def spoken(world: World, turn: Callable[[str, int], str], **options: Any) -> Rows:
    """An engine that writes `turn(text of the row, seed)`; logprobs and entropies vary by place.

    A turn that ends in a tag of the protocol is left open, any other one ends.
    """

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        said = turn(world.renderer.tokenizer.decode(np.asarray(row)), sampling.seed)
        ended = not said.endswith("</code>")
        ids = world.renderer.demo(said, ended=ended).tolist()
        at = [len(row) + k for k in range(len(ids))]
        return Reply(ids, [-0.1 - 0.05 * (t % 7) for t in at], [0.2 * (t % 5) for t in at])

    return world.script(write, **options)


@pytest.fixture
def served(world: World) -> Callable[..., Services]:
    """What a plan is handed: episodes of the quiz, written by `turn(text of the row, seed)`."""

    def make(turn: Callable[[str, int], str], **given: Any) -> Services:
        options = {
            name: given.pop(name) for name in ("rewards", "scorer", "judge") if name in given
        }
        make_env = given.pop("make_env", None)
        parts = world.parts(spoken(world, turn), make_env, **given)
        return Services(episodes=Episodes(parts, seed=7), **options)

    return make


@pytest.fixture
def world(renderer: NanoRenderer) -> World:
    return World(renderer)


def raising(error: BaseException) -> Callable[..., Awaitable[Any]]:
    """An async function that raises."""

    async def fail(*_: Any) -> Any:
        raise error

    return fail


def sleeping(seconds: float, value: Any = None) -> Callable[..., Awaitable[Any]]:
    """An async function that takes a while."""

    async def sleep(*_: Any) -> Any:
        await asyncio.sleep(seconds)
        return value

    return sleep


@pytest.fixture(scope="session")
def fail() -> Callable[[BaseException], Callable[..., Awaitable[Any]]]:
    return raising


@pytest.fixture(scope="session")
def sleep() -> Callable[..., Callable[..., Awaitable[Any]]]:
    return sleeping
