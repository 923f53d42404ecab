"""The search tool of an episode, over whichever corpus the task needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError
from agentrl.retrieval import Hit, Retriever
from agentrl.types import JsonValue, ToolResult
from agentrl_envs.families.base import Style
from agentrl_tools.search.shown import NOTHING
from agentrl_tools.search.tool import SearchTool


@final
class Lookup:
    """Searches the corpus of the task that is being asked.

    The environment binds it at every reset, because tasks may bring passages of their own; what it
    finds is shown by `SearchTool`, or in a few bytes to a tiny model.
    """

    name = "search"
    parallel = True
    uses_sandbox = False
    schema: Mapping[str, JsonValue] = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What to look for."}},
        "required": ["query"],
    }

    def __init__(self, *, k: int, style: Style, max_chars: int) -> None:
        """`k` passages at most are shown, in `max_chars` characters at most in the plain style."""
        self._style: Style = style
        self._k, self._max_chars = k, max_chars
        self._ctx = Context()
        self._retriever: Retriever | None = None
        self._plain: SearchTool | None = None

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return f"Finds the {self._k} passages that fit a query best."

    async def bind(self, retriever: Retriever) -> None:
        """Search here from now on; its owner closes it."""
        self._retriever = retriever
        if self._style == "plain":
            self._plain = SearchTool(retriever=retriever, k=self._k, max_chars=self._max_chars)
            await self._plain.open(self._ctx)

    async def open(self, ctx: Context) -> None:
        """Remember the episode's deadline; a copy binds itself to its original's corpus."""
        self._ctx = ctx
        if self._retriever is not None:
            await self.bind(self._retriever)

    async def __call__(self, **arguments: JsonValue) -> str | ToolResult:
        """The passages found. Raises ToolError on an empty query."""
        if self._retriever is None:
            raise ToolError("Nothing is asked yet: reset the environment before searching.")
        if self._plain is not None:
            return await self._plain(**arguments)
        query = str(arguments["query"])
        if not query.strip():
            raise ToolError("The query is empty.")
        (hits,) = await self._retriever.search([query], k=self._k)
        return terse(hits)

    async def fork(self, n: int) -> list[Lookup]:
        """Copies over the same corpus, which nobody writes to; yet to be opened."""
        copies = [Lookup(k=self._k, style=self._style, max_chars=self._max_chars) for _ in range(n)]
        for copy in copies:
            copy._retriever = self._retriever
        return copies

    async def close(self) -> None:
        """Let go of the corpus."""
        self._retriever = self._plain = None


def terse(hits: Sequence[Hit]) -> str:
    """`title: text` a line, best first."""
    return "\n".join(f"{hit.passage.title}: {hit.passage.text}" for hit in hits) or NOTHING


__all__ = ["Lookup", "terse"]
