"""Fenced code: a ```python block is run, its output follows in an ```output block.

As in ToRL (arXiv:2503.23383): the generation stops where the model opens the output block, and the
environment fills it in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentrl.chat.base import Inline, Messages, Presented
from agentrl.chat.protocols.fences import fenced, find_fences
from agentrl.chat.protocols.text import (
    code_call,
    joined,
    only_tools,
    split_thinking,
    tool_list,
    unseen,
)
from agentrl.env import Action
from agentrl.tool import Tool
from agentrl.transcript import Int32Array
from agentrl.types import JsonValue, Message

_OUTPUT = "```output"
_LANGUAGES = ("python", "py")


@dataclass(frozen=True, slots=True)
class Fenced:
    """The fenced format."""

    tool: str = "python"
    """The tool that the code goes to, as its argument `code`."""
    name: str = "fenced"

    @property
    def stops(self) -> tuple[str, ...]:
        """A call is complete where the output block opens."""
        return (_OUTPUT,)

    def tool_prompt(self, tools: Sequence[Tool]) -> str:
        """Instructions for the system message."""
        if not tools:
            return ""
        return (
            "Solve the problem step by step. Whenever it helps, run Python code by writing\n"
            f"{self._shape()}\nand the block is filled with what the code prints. Then go on. "
            "Put the final result into \\boxed{}.\n"
            f"{tool_list(tools)}"
        )

    def parse(self, token_ids: Int32Array, text: str, *, turn: int) -> Action:
        """The last Python block, if the output block opens after it or it ends the turn."""
        reasoning = split_thinking(text).reasoning
        before, asked, _ = text.rpartition(_OUTPUT)
        shown = before if asked else text
        blocks = [block for block in find_fences(shown) if block.language in _LANGUAGES]
        if not blocks:
            told = f"There is no Python block before {_OUTPUT}." if asked else None
            return self._action(text, reasoning, told)
        last = blocks[-1]
        if not last.closed:
            return self._action(text, reasoning, "The Python block is not closed.")
        if shown[last.end :].strip():
            told = f"{_OUTPUT} does not follow its Python block." if asked else None
            return self._action(text, reasoning, told)
        if not last.code.strip():
            return self._action(text, reasoning, "The Python block is empty.")
        call = code_call(last.code, shown[last.start : last.end], tool=self.tool, turn=turn)
        return Action(text, (call,), reasoning=reasoning)

    def call_text(self, name: str, arguments: Mapping[str, JsonValue]) -> str:
        """The Python block and the opening of its output."""
        code = arguments.get("code")
        if name != self.tool or len(arguments) != 1 or not isinstance(code, str):
            raise ValueError(f"fenced writes only {self.tool}(code), not {name}")
        if _OUTPUT in code or not code.strip():
            raise ValueError(f"fenced cannot write empty code or code with {_OUTPUT} in it")
        return f"{fenced(code)}\n{_OUTPUT}"

    def present(
        self, observation: Sequence[Message], *, text: str = "", ended: bool = False
    ) -> Presented:
        """The rest of the output block; other messages as they are."""
        if ended or not only_tools(observation):
            return Messages(tuple(observation))
        content = joined(observation)
        newline = "" if content.endswith("\n") else "\n"
        return Inline(unseen("\n", text, _OUTPUT), content, f"{newline}```\n")

    def _action(self, text: str, reasoning: str | None, problem: str | None) -> Action:
        if problem is None:
            return Action(text, reasoning=reasoning)
        told = f"{problem} Nothing was run. Write code as:\n{self._shape()}"
        return Action(text, parse_error=told, reasoning=reasoning)

    def _shape(self) -> str:
        return f"{fenced('print(2 + 3)')}\n{_OUTPUT}"


__all__ = ["Fenced"]
