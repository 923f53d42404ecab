"""A small world behind the gateway: nano's format, a scripted engine, one tool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from agentrl.chat.base import Tokenizer
from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.hermes import Hermes
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Generation, Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.parts import Names, Parts
from agentrl.serve.gateway.session import Session
from agentrl.serve.gateway.wire import ChatRequest, OfferedTool, read_request, tool_specs
from agentrl.tool import tool
from agentrl.types import Message, Task, ToolCall
from agentrl_envs.tool_env import ToolEnv


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def renderer(tokenizer: Tokenizer) -> NanoRenderer:
    return NanoRenderer(tokenizer)


class Quiz(ToolEnv):
    """One question; `python` answers with what is in its table; a turn without a call ends it."""

    opened = 0
    closed = 0

    def __init__(self) -> None:
        async def python(code: str) -> str:
            """Run code.

            Args:
                code: the code.
            """
            return OUTPUTS.get(code, code)

        super().__init__((tool(python),), max_calls=9)
        Quiz.opened += 1

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def judge(self, action: Action) -> StepResult:
        right = f"<answer>{self.task.answer}</answer>" in action.text
        return StepResult((), float(right), True, False, StepInfo(answer=action.text))

    async def close(self) -> None:
        Quiz.closed += 1
        await super().close()


OUTPUTS = {"1+3": "4", "long": "x" * 5000}


class Rows(ScriptedEngine):
    """A scripted engine that remembers what it was asked and what it gave."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rows: list[list[int]] = []
        self.samplings: list[Sampling] = []
        self.given: list[Generation] = []
        self.hold: asyncio.Event | None = None
        self.cancelled = 0

    async def asked(self, n: int) -> None:
        """Wait for the n-th request."""
        async with asyncio.timeout(30):
            while len(self.rows) < n:  # noqa: ASYNC110  a test's engine is polled
                await asyncio.sleep(0.001)

    async def generate(self, token_ids: Any, sampling: Sampling) -> Generation:
        self.rows.append(np.asarray(token_ids).tolist())
        self.samplings.append(sampling)
        try:
            if self.hold is not None:
                await self.hold.wait()
            generation = await super().generate(token_ids, sampling)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.given.append(generation)
        return generation


@dataclass
class World:
    """Makes sessions and what they are made of."""

    renderer: NanoRenderer
    task: Task = field(default_factory=lambda: Task("t", "Q", "4", seed=3))
    tools: tuple[OfferedTool, ...] = ()

    def __post_init__(self) -> None:
        offered = tool_specs(Quiz().tools)
        request = {"messages": [{"role": "user", "content": "x"}], "tools": offered}
        self.tools = read_request(request).tools

    def engine(self, *turns: str | Sequence[int] | Reply, **options: Any) -> Rows:
        """Plays `turns` by request number, the last one for ever."""
        return self.script(lambda row, sampling, i: turns[min(i, len(turns) - 1)], **options)

    def script(self, script: Any, **options: Any) -> Rows:
        return Rows(
            script,
            tokenizer=self.renderer.tokenizer,
            encode=self.renderer.demo,
            end_id=self.renderer.stop_ids[0],
            **options,
        )

    def parts(self, engine: Any, **changes: Any) -> Parts:
        limits = {k: changes.pop(k) for k in list(changes) if k in Limits.__dataclass_fields__}
        given: dict[str, Any] = {
            "make_env": Quiz,
            "engine": engine,
            "renderer": self.renderer,
            "protocol": ReTool(fence=False),
            "limits": Limits(**limits),
            "sampling": Sampling(max_tokens=1),
            "tool_slots": Slots(64),
            **changes,
        }
        return Parts(**given)

    def names(self) -> Names:
        return Names(9, 0, self.task)

    def session(self, engine: Any, **changes: Any) -> Session:
        sampling = changes.pop("sampling_by", "run")
        return Session(self.parts(engine, **changes), self.names(), sampling=sampling)

    def ask(self, *messages: Message, **fields: Any) -> ChatRequest:
        request = ChatRequest(messages, tools=self.tools)
        return replace(request, **fields)

    @property
    def hermes(self) -> Hermes:
        return Hermes()


@pytest.fixture
def world(renderer: NanoRenderer) -> World:
    return World(renderer)


@pytest.fixture
def say() -> Callable[..., Message]:
    """Messages in few words."""

    def make(role: Any, content: str = "", call: str | None = None, code: str = "") -> Message:
        if role == "assistant" and call is not None:
            return Message(role, content, (ToolCall(call, "python", {"code": code}),))
        return Message(role, content, call_id=call)

    return make


@pytest.fixture
def quiz() -> type[Quiz]:
    return Quiz
