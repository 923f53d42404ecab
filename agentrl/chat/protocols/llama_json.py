"""Llama 3.1's calls: the whole turn is one JSON object with `name` and `parameters`.

The renderer's template describes the tools. Text that is no such object is an ordinary message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentrl.chat.base import Messages, Presented
from agentrl.chat.llama3 import call_json
from agentrl.chat.protocols.hermes import read_call, read_json
from agentrl.chat.protocols.text import call_id
from agentrl.env import Action
from agentrl.errors import ParseError
from agentrl.tool import Tool
from agentrl.transcript import Int32Array
from agentrl.types import JsonValue, Message, ToolCall

_PYTHON_TAG = "<|python_tag|>"
_SHAPE = '{"name": "tool_name", "parameters": {"argument": "value"}}'


@dataclass(frozen=True, slots=True)
class LlamaJson:
    """Llama's JSON format, one call per turn."""

    name: str = "llama_json"

    @property
    def stops(self) -> tuple[str, ...]:
        """None: the end-of-turn id ends a turn."""
        return ()

    def tool_prompt(self, tools: Sequence[Tool]) -> str:
        """Empty: the renderer's template describes the tools."""
        return ""

    def parse(self, token_ids: Int32Array, text: str, *, turn: int) -> Action:
        """A turn that starts like the object is a call; any other is text."""
        body = text.strip().removeprefix(_PYTHON_TAG).lstrip()
        if not body.startswith("{") or '"name"' not in body:
            return Action(text)
        try:
            value, end = read_json(body, 0)
            name, arguments = read_call(value, "parameters")
            if body[end:].strip():
                raise ParseError("A turn with a call holds that one JSON object and nothing else.")
        except ParseError as error:
            return Action(text, parse_error=f"{error} Nothing was run. Write a call as:\n{_SHAPE}")
        return Action(text, (ToolCall(call_id(turn, 0), name, arguments, body),))

    def call_text(self, name: str, arguments: Mapping[str, JsonValue]) -> str:
        """The JSON object."""
        return call_json(ToolCall("", name, arguments))

    def present(
        self, observation: Sequence[Message], *, text: str = "", ended: bool = False
    ) -> Presented:
        """The messages as they are."""
        return Messages(tuple(observation))


__all__ = ["LlamaJson"]
