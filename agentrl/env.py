"""The environment contract: Gymnasium's meaning, asynchronous, over messages.

An Env knows neither token ids nor chat templates. One instance is one live episode. `step` returns
Gymnasium's five fields; `terminated` (the task ended by itself) and `truncated` (a limit ended it)
stay apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from agentrl.context import Context
from agentrl.tool import Tool
from agentrl.types import Message, Task, ToolCall, ToolResult

Observation: TypeAlias = tuple[Message, ...]
"""What the environment answered; on reset, the first messages."""


@dataclass(frozen=True, slots=True)
class Action:
    """What the model wrote in one turn, parsed by a protocol."""

    text: str
    """The sampled text of this turn, whole."""
    tool_calls: tuple[ToolCall, ...] = ()
    parse_error: str | None = None
    """What could not be read and how to write it, addressed to the model."""
    reasoning: str | None = None
    """The thinking part of `text`, when the format marks one."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a step tells the trajectory's ledger."""

    results: tuple[ToolResult, ...] = ()
    """Results of the calls this step executed, in call order."""
    answer: str | None = None
    """The final answer the environment read, once there is one."""
    excluded: str | None = None
    """Reason why the trajectory must not be trained on (a verdict could not be had), or None."""
    context: str | None = None
    """Name of the context (row) in which the observation is read; None stays in the present one.

    A name not used before begins a fresh row: the observation is its first messages and nothing
    said before is seen (Delethink's chunks, the roles of Memory-R1). A known name goes on there
    (agents in a discussion). `reset` begins the row named `""`. Only a fresh context may hold
    assistant messages: what was said elsewhere, retold as prompt.
    """
    by: str | None = None
    """Name of the partner (`rollout.partners`) that writes the next turn; None is the policy."""


class StepResult(NamedTuple):
    """Gymnasium's order."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: StepInfo


class Env(ABC):
    """One live episode of a task.

    The loop calls `open`, then `reset` and `step` until an ending, then `close` always.
    """

    tools: tuple[Tool, ...] = ()
    """Tools offered to the model; protocols describe them in the prompt."""
    protocol: str = "hermes"
    """Name of the protocol the environment is written for; a config may choose another."""
    uses_sandbox: bool | None = None
    """Whether its episodes lease a sandbox; None: when one of its tools may."""
    partners: tuple[str, ...] = ()
    """Roles that it has partners write (`StepInfo.by`); a run must configure each of them."""
    expert_floor: float | None = None
    """Mean reward that `expert` reaches at least; `agentrl check env` holds it to that."""
    random_ceiling: float | None = None
    """Mean reward above which a `RandomPlayer` does not get; the check holds it to that."""

    async def open(self, ctx: Context) -> None:
        """Acquire what the episode needs. Called once, before `reset`."""
        for tool in self.tools:
            await tool.open(ctx)

    @abstractmethod
    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Start the task; the observation is the conversation's first messages."""

    @abstractmethod
    async def step(self, action: Action) -> StepResult:
        """Answer one action."""

    async def close(self) -> None:
        """Release everything. Idempotent."""
        for tool in self.tools:
            await tool.close()


def may_lease(env: Env) -> bool:
    """Whether an episode may need a sandbox. A tool may unless it says `uses_sandbox = False`."""
    if env.uses_sandbox is not None:
        return env.uses_sandbox
    return any(getattr(tool, "uses_sandbox", True) for tool in env.tools)


@runtime_checkable
class Expert(Protocol):
    """An environment that can show how a task is solved."""

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The model's turns, in order, as text in the environment's own protocol.

        The same loop plays them with a scripted engine, so tools really run.
        """
        ...


@runtime_checkable
class RandomPlayer(Protocol):
    """An environment that can be played by somebody who knows nothing but the form of a turn."""

    def random_turn(self, rng: Random) -> str:
        """A turn in the environment's own protocol, its content drawn blindly from `rng`."""
        ...


@runtime_checkable
class Forkable(Protocol):
    """Sessions, tools and environments that can branch.

    A copied tool or environment is opened with a Context of its own, whose sandbox lease already
    holds a copy of the interpreter; `open` binds it there and leaves its state alone.
    """

    async def fork(self, n: int) -> list[Self]:
        """`n` independent copies of the present state. Raises CannotFork."""
        ...


@runtime_checkable
class TaskGenerator(Protocol):
    """An environment family that makes its own tasks."""

    def tasks(self, split: str, *, seed: int) -> Iterable[Task]:
        """An endless, seeded stream; the splits share no task."""
        ...
