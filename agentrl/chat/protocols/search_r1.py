"""Search-R1's tags: `<search>` inside the turn, answered by `<information>`; `<answer>` ends.

Search-R1 (arXiv:2503.09516), section 3.2 and its code: the first complete `<search>` or `<answer>`
is the action; text with neither is invalid and told so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentrl.chat.base import Inline, Messages, Presented
from agentrl.chat.protocols.text import (
    call_id,
    joined,
    only_tools,
    split_thinking,
    tool_list,
    unseen,
)
from agentrl.env import Action
from agentrl.tool import Tool
from agentrl.transcript import Int32Array
from agentrl.types import JsonValue, Message, ToolCall

_ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_STOPS = ("</search>", "</answer>")
_SHAPE = "<search> query </search>\nor, when you know it:\n<answer> short answer </answer>"


@dataclass(frozen=True, slots=True)
class SearchR1:
    """The Search-R1 format; with `bare=True` its short form for the nano model."""

    tool: str = "search"
    """The tool that a query goes to, as its argument `query`."""
    bare: bool = False
    """Whether instructions, corrections and blanks around results are left out."""

    @property
    def name(self) -> str:
        """Registered name."""
        return "search_r1_bare" if self.bare else "search_r1"

    @property
    def stops(self) -> tuple[str, ...]:
        """A turn is complete at the end of a search or an answer."""
        return _STOPS

    def tool_prompt(self, tools: Sequence[Tool]) -> str:
        """Instructions for the system message."""
        if not tools:
            return ""
        if self.bare:
            return f"Tools: {self.tool}"
        return (
            "Think inside <think> and </think> whenever you get new information. If you lack some "
            "knowledge, call the search engine with <search> query </search>; what it finds is "
            "returned between <information> and </information>. Search as often as you want. When "
            "you need no more, give a short answer inside <answer> and </answer>, for example "
            f"<answer> Beijing </answer>.\n{tool_list(tools)}"
        )

    def parse(self, token_ids: Int32Array, text: str, *, turn: int) -> Action:
        """The first complete search or answer."""
        reasoning = split_thinking(text).reasoning
        found = _ACTION.search(text)
        if found is None:
            return self._failed(text, reasoning, "There is no complete search or answer.")
        if found[1] == "answer":
            return Action(text, reasoning=reasoning)
        query = found[2].strip()
        if not query:
            return self._failed(text, reasoning, "The search query is empty.")
        call = ToolCall(call_id(turn, 0), self.tool, {"query": query}, found[0])
        return Action(text, (call,), reasoning=reasoning)

    def call_text(self, name: str, arguments: Mapping[str, JsonValue]) -> str:
        """The tagged query."""
        query = arguments.get("query")
        if name != self.tool or len(arguments) != 1 or not isinstance(query, str):
            raise ValueError(f"search_r1 writes only {self.tool}(query), not {name}")
        if not query or query != query.strip() or "</search>" in query:
            raise ValueError("search_r1 writes a query without blanks around it or </search> in it")
        return f"<search>{query}</search>" if self.bare else f"<search> {query} </search>"

    def present(
        self, observation: Sequence[Message], *, text: str = "", ended: bool = False
    ) -> Presented:
        """What was found, in `<information>` tags inside the turn; other messages as they are."""
        if ended or not only_tools(observation):
            return Messages(tuple(observation))
        content = joined(observation)
        if self.bare:
            return Inline("<information>", content.rstrip("\n"), "</information>")
        before = unseen("\n\n<information>", text, _STOPS[0])
        return Inline(before, content, "</information>\n\n")

    def _failed(self, text: str, reasoning: str | None, problem: str) -> Action:
        told = problem if self.bare else f"{problem} Nothing was done. Write:\n{_SHAPE}"
        return Action(text, parse_error=told, reasoning=reasoning)


def search_r1_bare() -> SearchR1:
    """The `search_r1_bare` protocol: tags alone, for models with few tokens to spare."""
    return SearchR1(bare=True)


__all__ = ["SearchR1", "search_r1_bare"]
