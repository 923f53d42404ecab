"""A class with `reset`, optional `get_reward` and public methods, as TRL's `environment_factory` takes it.

    agentrl train env=trl_class env.path=wordle.py:Wordle

Every public method but those two is a tool: its docstring (Google style) and its type hints are what
the model reads, in the very schema that TRL's chat templates are given. `reset` may answer with text,
which follows the prompt; it is handed those columns of the task that it has arguments for.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Self, TypeAlias, cast, final

from agentrl.context import Context
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import CannotFork, UserError
from agentrl.registry import resolve
from agentrl.seeds import derive
from agentrl.tool import Tool
from agentrl.types import JsonValue, Message, Task
from agentrl_envs.tool_env import ToolEnv

RESERVED = ("reset", "get_reward")
"""Methods that are no tools."""

Factory: TypeAlias = Callable[[], object]
"""Makes one environment: the class itself, or a function."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class MethodTool:
    """One public method of a live object."""

    uses_sandbox: ClassVar[bool] = False
    method: Callable[..., object]
    """Bound; a plain one runs in a thread."""
    name: str
    description: str
    schema: Mapping[str, JsonValue]
    parallel: bool = False

    async def open(self, ctx: Context) -> None:
        """Nothing to open."""

    async def __call__(self, **arguments: JsonValue) -> str:
        """Call it; what it returns is written as text, as TRL does."""
        return str(await _called(self.method, **arguments))

    async def close(self) -> None:
        """Nothing to close."""


@final
class TrlClass(ToolEnv):
    """Any class with `reset`, optional `get_reward` and documented methods as tools (TRL's shape)."""

    def __init__(
        self, *, path: str, prompt: str = "", max_calls: int = 8, call_s: float = 30.0
    ) -> None:
        """Make one episode's environment.

        Args:
            path: `file.py:Class` or `package.module:Class`; a function that makes one will do.
            prompt: what the model is told before the text that `reset` answers with; a task's own
                question wins over it.
            max_calls: calls per episode.
            call_s: seconds one call may take.

        Raises UserError when the class has no `reset`, or a method cannot be made a tool.
        """
        factory = cast(Factory, resolve("env", path))
        self.path = path
        self.prompt = prompt
        self._live = factory()
        super().__init__(tools_of(self._live), max_calls=max_calls, call_s=call_s)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The prompt, and what the object's own `reset` adds to it."""
        await super().reset(task, seed=seed)
        reset = cast(Callable[..., object], getattr(self._live, "reset"))  # noqa: B009
        added = await _called(reset, **_accepted(reset, _columns(task)))
        if added is not None and not isinstance(added, str):
            raise UserError(
                f"{type(self._live).__name__}.reset returned {type(added).__name__}; env=trl_class "
                "shows text, so return a string or None"
            )
        (first,) = self.first_messages(task)
        return (Message("user", (self._told(task) + (added or "")) or first.content),)

    def first_messages(self, task: Task) -> Observation:
        """The task's question."""
        return (Message("user", task.question),)

    def _told(self, task: Task) -> str:
        """The question of a task from a file; generated tasks have none of their own."""
        return self.prompt if task.metadata.get("generated") else task.question

    async def judge(self, action: Action) -> StepResult:
        """A turn without a call ends the episode, and the object says what it was worth."""
        score = getattr(self._live, "get_reward", None)
        if score is None:
            return StepResult((), 0.0, True, False, StepInfo(answer=action.text))
        reward = await _called(cast(Callable[..., object], score))
        if reward is None:
            info = StepInfo(answer=action.text, excluded="unscored")
            return StepResult((), 0.0, True, False, info)
        return StepResult((), float(cast(float, reward)), True, False, StepInfo(answer=action.text))

    async def fork(  # pyright: ignore[reportIncompatibleMethodOverride]  Self of a final class
        self, n: int
    ) -> list[Self]:
        """Copies around copies of the object. Raises CannotFork when it cannot be copied."""
        made: list[Self] = []
        for _ in range(n):
            branch = copy(self)
            try:
                branch._live = await asyncio.to_thread(deepcopy, self._live)
            except (TypeError, ValueError, NotImplementedError, RecursionError) as error:
                raise CannotFork(f"{self.path} cannot be copied: {error}") from error
            made.append(branch._with_tools(tools_of(branch._live)))
        return made

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """For an object that brings its own problems: tasks that differ in their seed alone.

        Raises UserError on another split than train and test.
        """
        if split not in ("train", "test"):
            raise UserError(f"trl_class has the splits train and test, not {split!r}")
        rng = Random(derive("trl_class", self.path, split, seed))
        question = self.prompt or f"Use the tools of {type(self._live).__name__}."
        while True:
            number = 2 * rng.getrandbits(30) + (split == "test")
            yield Task(f"{split}/{number}", question, None, {"generated": True}, seed=number)

    def random_turn(self, rng: Random) -> str:
        """A turn without a call, which ends the episode."""
        return "I am done." if rng.random() < 0.5 else "Done."


def tools_of(live: object) -> Sequence[Tool]:
    """Its public methods as tools, in TRL's order.

    Raises UserError without a `reset`, or for a method without docstring or hints.
    """
    cls = type(live)
    methods = dict(inspect.getmembers(cls, predicate=inspect.isfunction))
    if "reset" not in methods:
        raise UserError(f"{cls.__name__} has no method `reset`, which env=trl_class calls; add one")
    offered = [name for name in methods if name not in RESERVED and not name.startswith("_")]
    return tuple(_tool(cls.__name__, name, getattr(live, name)) for name in offered)


def _tool(owner: str, name: str, method: Callable[..., object]) -> MethodTool:
    """Its schema is the one that transformers derives, so that TRL's prompt and ours are the same."""
    from transformers.utils import chat_template_utils as chat

    derive_schema = cast(Callable[..., Mapping[str, Any]], chat.get_json_schema)
    try:
        described = derive_schema(method)["function"]
    except (chat.DocstringParsingException, chat.TypeHintParsingException) as error:
        told = " ".join(str(error).split())
        raise UserError(
            f"{owner}.{name} cannot be a tool: {told}; give it a docstring with `Args:` and type "
            "hints, or a name that begins with _"
        ) from None
    return MethodTool(method, name, described["description"], described["parameters"])


async def _called(function: Callable[..., object], **arguments: object) -> object:
    """Await it, or run it in a thread."""
    if inspect.iscoroutinefunction(function):
        return await cast(Callable[..., Awaitable[object]], function)(**arguments)
    return await asyncio.to_thread(function, **arguments)


def _columns(task: Task) -> Mapping[str, object]:
    """The task as TRL's data set row, and its seed."""
    return {
        **task.metadata,
        "prompt": [{"role": "user", "content": task.question}],
        "answer": task.answer,
        "seed": task.seed,
    }


def _accepted(function: Callable[..., object], columns: Mapping[str, object]) -> dict[str, object]:
    """Those that it has arguments for; all of them when it takes any."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(columns)
    return {name: value for name, value in columns.items() if name in parameters}


__all__ = ["MethodTool", "TrlClass", "tools_of"]
