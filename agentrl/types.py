"""Plain data that every room shares: tasks, messages, tool calls and their results.

Nothing here imports more than the standard library, and nothing here knows token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

JsonValue: TypeAlias = (
    "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
"""What `json.loads` returns; the only open-ended type that may cross a folder."""

Role = Literal["system", "user", "assistant", "tool"]

ToolFault = Literal["parse", "unknown_tool", "arguments", "timeout", "execution"]
"""Why a call failed through the model's own fault; the world's faults raise instead."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call the model wrote, parsed."""

    id: str
    """Unique within its trajectory; a tool message answers it by `call_id`."""
    name: str
    arguments: Mapping[str, JsonValue]
    raw: str = ""
    """The exact text the model wrote, kept when its arguments could not be read."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, as an environment writes it and a renderer encodes it."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of an assistant message, in the order written."""
    call_id: str | None = None
    """For a tool message: the `ToolCall.id` it answers; None when no call could be parsed."""
    name: str | None = None
    """For a tool message: the tool's name."""
    reasoning: str | None = None
    """An assistant's thinking, for templates that give it a place of its own."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one executed call gave back."""

    call_id: str
    content: str
    """What the model reads, already cut to the observation budget."""
    error: ToolFault | None = None
    """None when the call did what it was asked."""
    truncated: bool = False
    """True when `content` lost its middle to the budget."""
    wall_s: float = 0.0
    """Seconds the call took, its queueing excluded."""
    queue_s: float = 0.0
    """Seconds it waited for a free slot."""


@dataclass(frozen=True, slots=True)
class Task:
    """One problem instance; data only."""

    id: str
    """Stable across epochs and runs: the key of everything remembered about the task."""
    question: str
    answer: str | None = None
    """The hidden gold answer; never rendered. None when the task has no single answer."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """What checkers, curricula and reports read: family, level, domain, ..."""
    seed: int = 0
    """Seed of the environment's state; siblings share it."""
