"""What a recorded session hands out: turns, counts and its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentrl.chat.protocols.text import split_thinking
from agentrl.engine.base import Generation
from agentrl.env import Action
from agentrl.trajectory import StopReason
from agentrl.transcript import Int32Array
from agentrl.types import Message

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered request."""

    message: Message
    """What the client is told."""
    finish: Finish
    generation: Generation
    prompt_ids: Int32Array
    """Shape [t]: the row up to the turn."""
    row: int
    """Which of the session's rows it went into."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a session ended and what it was worth."""

    stop: StopReason
    rewards: Mapping[str, float] = field(default_factory=dict[str, float])
    """Empty when nobody scored it, which is not 0.0."""
    answer: str | None = None
    error: str | None = None
    excluded: str | None = None


@dataclass(slots=True)
class Counts:
    """How requests found their rows."""

    continued: int = 0
    branched: int = 0
    """Went back to an earlier turn, or asked twice."""
    rendered: int = 0
    """Began a row that was rendered from text: the first, and each with a rewritten history."""


def finish_of(action: Action, generation: Generation) -> Finish:
    """Why the turn ended, as the API says it."""
    if generation.stop == "length":
        return "length"
    return "tool_calls" if action.tool_calls else "stop"


def spoken(action: Action, stop: str | None = None) -> Message:
    """A turn as the API tells it: thinking and calls apart from the text, a stop string cut off."""
    text = action.text
    if action.reasoning is not None:
        text = split_thinking(text, ("<tool_call>", "</tool_call>")).rest
    for call in action.tool_calls:
        text = text.replace(call.raw, "", 1) if call.raw else text
    if stop is not None:
        text = text.partition(stop)[0]
    if action.tool_calls or action.reasoning is not None:
        text = text.strip()
    return Message("assistant", text, action.tool_calls, reasoning=action.reasoning)


__all__ = ["Counts", "Finish", "Turn", "Verdict", "finish_of", "spoken"]
