"""Hermes-style calls: JSON in `<tool_call>` tags, several per turn, answered by tool messages.

The renderer's template describes the tools and the format. The end-of-turn id ends a turn, so there
are no stop strings. Only text after the thinking counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from agentrl.chat.base import Messages, Presented
from agentrl.chat.markup import call_block
from agentrl.chat.protocols.text import call_id, split_thinking
from agentrl.env import Action
from agentrl.errors import ParseError
from agentrl.tool import Tool
from agentrl.transcript import Int32Array
from agentrl.types import JsonValue, Message, ToolCall

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_SHAPE = f'{_OPEN}\n{{"name": "tool_name", "arguments": {{"argument": "value"}}}}\n{_CLOSE}'


@dataclass(frozen=True, slots=True)
class Hermes:
    """The Hermes format."""

    name: str = "hermes"

    @property
    def stops(self) -> tuple[str, ...]:
        """None: the end-of-turn id ends a turn."""
        return ()

    def tool_prompt(self, tools: Sequence[Tool]) -> str:
        """Empty: the renderer's template describes the tools."""
        return ""

    def parse(self, token_ids: Int32Array, text: str, *, turn: int) -> Action:
        """Read every call after the thinking. One unreadable call refuses all of the turn's."""
        thinking = split_thinking(text, (_OPEN, _CLOSE))
        try:
            calls = _calls(thinking.rest, turn)
        except ParseError as error:
            told = f"{error} Nothing was run. Write each call as:\n{_SHAPE}"
            return Action(text, parse_error=told, reasoning=thinking.reasoning)
        return Action(text, calls, reasoning=thinking.reasoning)

    def call_text(self, name: str, arguments: Mapping[str, JsonValue]) -> str:
        """One tagged call."""
        if not name or json.dumps(name, ensure_ascii=False) != f'"{name}"':
            raise ValueError(f"hermes cannot name a tool {name!r}")
        return call_block(ToolCall("", name, arguments))

    def present(
        self, observation: Sequence[Message], *, text: str = "", ended: bool = False
    ) -> Presented:
        """The messages as they are; the renderer's template wraps tool messages."""
        return Messages(tuple(observation))


def _calls(text: str, turn: int) -> tuple[ToolCall, ...]:
    """All calls in `text`. Raises ParseError on the first that cannot be read."""
    calls: list[ToolCall] = []
    position = 0
    while (start := text.find(_OPEN, position)) >= 0:
        body = start + len(_OPEN)
        value, end = read_json(text, body)
        end += len(text[end:]) - len(text[end:].lstrip())
        if not text.startswith(_CLOSE, end):
            raise ParseError(_not_closed(text, body, end))
        position = end + len(_CLOSE)
        name, arguments = read_call(value, "arguments")
        calls.append(ToolCall(call_id(turn, len(calls)), name, arguments, text[start:position]))
    if _CLOSE in text[position:]:
        raise ParseError(f"There is a {_CLOSE} without its {_OPEN}.")
    return tuple(calls)


def _not_closed(text: str, body: int, end: int) -> str:
    if end == len(text):
        return f"There is no {_CLOSE}: the call is incomplete."
    found = text[end : end + 20]
    return f"After the JSON, at character {end - body} of the call, comes {found!r}, not {_CLOSE}."


def read_json(text: str, start: int) -> tuple[JsonValue, int]:
    """The JSON value at `start`, blanks skipped, and where it ends.

    Raises ParseError with the place and what stands there. Not-a-number, endless nesting and lone
    surrogates are refused, because tools and transcripts cannot carry them.
    """
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        value, end = _DECODER.raw_decode(text, start)
        json.dumps(value, ensure_ascii=False).encode()
        if _too_deep(value):
            raise RecursionError
    except json.JSONDecodeError as error:
        raise ParseError(_bad_json(text, start, error)) from error
    except RecursionError as error:
        raise ParseError("The call's JSON is nested too deeply.") from error
    except ValueError as error:
        raise ParseError(f"The call's JSON holds what cannot be read: {error}.") from error
    return cast(JsonValue, value), end


def _bad_json(text: str, start: int, error: json.JSONDecodeError) -> str:
    place = error.pos - start
    near = text[max(start, error.pos - 15) : error.pos + 15]
    return f"The call is not valid JSON: {error.msg} at character {place}, near {near!r}."


def _too_deep(value: JsonValue) -> bool:
    """More than 64 levels: whoever serialises it later may stand deep in the stack already."""
    layer: list[JsonValue] = [value]
    for _ in range(64):
        layer = [child for parent in layer for child in _children(parent)]
        if not layer:
            return False
    return True


def _children(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def read_call(value: JsonValue, key: str) -> tuple[str, Mapping[str, JsonValue]]:
    """Name and arguments of a call object whose arguments stand under `key`.

    Raises ParseError that says what is missing or of the wrong kind.
    """
    if not isinstance(value, Mapping):
        raise ParseError(f'The call must be a JSON object with "name" and "{key}".')
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise ParseError('The call has no "name" that is a string.')
    arguments = value.get(key, {} if len(value) == 1 else None)
    if not isinstance(arguments, Mapping):
        raise ParseError(f'The call\'s "{key}" must be a JSON object.')
    return name, arguments


__all__ = ["Hermes", "read_call", "read_json"]
