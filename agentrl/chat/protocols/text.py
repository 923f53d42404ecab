"""What the protocols share: the thinking part, and the seam after a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agentrl.tool import Tool
from agentrl.types import Message, ToolCall

_THINK, _THOUGHT = "<think>", "</think>"


class Thinking(NamedTuple):
    """A generation split at its last `</think>`."""

    reasoning: str | None
    """None when the text marks no thinking."""
    rest: str
    open: bool
    """True when a `<think>` was never closed: all of the text is thinking."""


def split_thinking(text: str, call: tuple[str, str] | None = None) -> Thinking:
    """Split `text` into its thinking and what follows.

    Thinking starts the text; its opening tag may be missing, because some templates put it into the
    prompt. `call` names the tags of a call: a `</think>` inside one is an argument's.
    """
    opened = text.lstrip()
    if opened.startswith(_THINK):
        inside, closer, rest = opened.removeprefix(_THINK).partition(_THOUGHT)
        return Thinking(inside.strip("\n"), rest, not closer)
    end = text.rfind(_THOUGHT)
    while (
        end >= 0 and call is not None and text.count(call[0], 0, end) > text.count(call[1], 0, end)
    ):
        end = text.rfind(_THOUGHT, 0, end)
    if end < 0:
        return Thinking(None, text, False)
    return Thinking(text[:end].strip("\n"), text[end + len(_THOUGHT) :], False)


def unseen(before: str, text: str, stop: str) -> str:
    """`before` without the characters that the model already wrote past `stop`.

    A stop string that ends inside a token leaves an overshoot (`</code` + `>\\n`): it stays in the
    row as sampled, so what it shares with the start of `before` is not written again.
    """
    _, found, overshoot = text.rpartition(stop)
    if not found:
        return before
    shared = 0
    while shared < min(len(before), len(overshoot)) and before[shared] == overshoot[shared]:
        shared += 1
    return before[shared:] if shared == len(overshoot) else before


def only_tools(observation: Sequence[Message]) -> bool:
    """True when every message is a tool's (and there is one)."""
    return bool(observation) and all(message.role == "tool" for message in observation)


def joined(observation: Sequence[Message]) -> str:
    """The contents of an observation's messages, one below the other."""
    return "\n".join(message.content for message in observation)


def tool_list(tools: Sequence[Tool]) -> str:
    """The last part of a tool prompt: a line per tool, for the model to read."""
    return "\n".join(["Tools:", *(f"- {tool.name}: {tool.description}" for tool in tools)])


def call_id(turn: int, index: int) -> str:
    """Id of a turn's call, unique within the trajectory."""
    return f"call_{turn}_{index}"


def code_call(code: str, raw: str, *, tool: str, turn: int, index: int = 0) -> ToolCall:
    """A call of an interpreter."""
    return ToolCall(call_id(turn, index), tool, {"code": code}, raw)


__all__ = [
    "Thinking",
    "call_id",
    "code_call",
    "joined",
    "only_tools",
    "split_thinking",
    "tool_list",
    "unseen",
]
