"""ReTool's tags: code inside the assistant's turn, its output right behind it.

ReTool (arXiv:2504.11536), section 3: the model writes `<code>`, a fenced block, `</code>`; the
generation stops there and the output follows as `<interpreter>...</interpreter>` in the same turn.
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

_OPEN, _CLOSE = "<code>", "</code>"


@dataclass(frozen=True, slots=True)
class ReTool:
    """The ReTool format; with `fence=False` its bare form for the nano model."""

    fence: bool = True
    """Whether code stands in a ```python fence inside the tags."""
    tool: str = "python"
    """The tool that the code goes to, as its argument `code`."""

    @property
    def name(self) -> str:
        """Registered name."""
        return "retool" if self.fence else "retool_bare"

    @property
    def stops(self) -> tuple[str, ...]:
        """A call is complete at `</code>`."""
        return (_CLOSE,)

    def tool_prompt(self, tools: Sequence[Tool]) -> str:
        """Instructions for the system message; a dozen characters in the bare form."""
        if not tools:
            return ""
        if not self.fence:
            return f"Tools: {self.tool}"
        return (
            "Solve the problem step by step. Whenever it helps, run Python code by writing\n"
            f"{self._shape()}\n"
            "The code is executed and what it prints is returned as\n"
            "<interpreter>\noutput\n</interpreter>\n"
            "Then go on. Give the result at the end as\n"
            "<answer>\n\\boxed{result}\n</answer>\n"
            f"{tool_list(tools)}"
        )

    def parse(self, token_ids: Int32Array, text: str, *, turn: int) -> Action:
        """Read the last `<code>` block; text without one is an action without calls."""
        reasoning = split_thinking(text).reasoning
        before, closed, _ = text.rpartition(_CLOSE)
        _, opened, body = (before if closed else text).rpartition(_OPEN)
        if not closed and not opened:
            return Action(text, reasoning=reasoning)
        if not (closed and opened):
            missing = _CLOSE if opened else _OPEN
            return self._failed(text, reasoning, f"There is no {missing}: the block is incomplete.")
        code = self._code(body)
        if code is None:
            return self._failed(text, reasoning, "The ``` fence inside <code> is not closed.")
        if not code.strip():
            return self._failed(text, reasoning, "The <code> block is empty.")
        call = code_call(code, f"{_OPEN}{body}{_CLOSE}", tool=self.tool, turn=turn)
        return Action(text, (call,), reasoning=reasoning)

    def call_text(self, name: str, arguments: Mapping[str, JsonValue]) -> str:
        """The tagged block that runs `arguments["code"]`."""
        code = arguments.get("code")
        if name != self.tool or len(arguments) != 1 or not isinstance(code, str):
            raise ValueError(f"{self.name} writes only {self.tool}(code), not {name}")
        if _CLOSE in code or _OPEN in code or not code.strip():
            raise ValueError(f"{self.name} cannot write empty code or code with {_OPEN} in it")
        if self.fence:
            return f"{_OPEN}\n{fenced(code)}\n{_CLOSE}"
        return f"{_OPEN}{code}{_CLOSE}"

    def present(
        self, observation: Sequence[Message], *, text: str = "", ended: bool = False
    ) -> Presented:
        """Output in `<interpreter>` tags inside the turn; other messages as they are."""
        if ended or not only_tools(observation):
            return Messages(tuple(observation))
        content = joined(observation)
        if not self.fence:
            return Inline("<interpreter>", content.rstrip("\n"), "</interpreter>")
        newline = "" if content.endswith("\n") else "\n"
        before = unseen("\n<interpreter>\n", text, _CLOSE)
        return Inline(before, content, f"{newline}</interpreter>\n\n")

    def _code(self, body: str) -> str | None:
        if not self.fence:
            return body
        fences = find_fences(body)
        if not fences:
            return body.strip("\n")
        return fences[-1].code if fences[-1].closed else None

    def _shape(self) -> str:
        code = "print(2 + 3)"
        return f"{_OPEN}\n{fenced(code)}\n{_CLOSE}" if self.fence else f"{_OPEN}{code}{_CLOSE}"

    def _failed(self, text: str, reasoning: str | None, problem: str) -> Action:
        error = f"{problem} Nothing was run. Write code as:\n{self._shape()}"
        return Action(text, parse_error=error, reasoning=reasoning)


def retool_bare() -> ReTool:
    """The `retool_bare` protocol: no fences, for models with few tokens to spare."""
    return ReTool(fence=False)


__all__ = ["ReTool", "retool_bare"]
