"""The search tool of an episode, over whichever retriever the task needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError
from agentrl.retrieval import Hit, Retriever
from agentrl.types import JsonValue
from agentrl_envs.families.base import Style

NOTHING = "(nothing found)"
"""What the model reads when no passage shares a word with its query."""


@final
class Lookup:
    """Searches the corpus of the task that is being asked.

    The environment binds it to a retriever at every reset: unlike a search tool over one corpus, it
    follows tasks that bring passages of their own.
    """

    name = "search"
    description = "Finds passages about a query."
    parallel = True
    schema: Mapping[str, JsonValue] = {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What to look for."}},
        "required": ["query"],
    }

    def __init__(self, *, k: int, style: Style) -> None:
        """`k` passages at most are shown, as `shown` writes them."""
        self._k = k
        self._style: Style = style
        self._retriever: Retriever | None = None
        self.last: tuple[Hit, ...] = ()
        """What the last call found."""

    def bind(self, retriever: Retriever) -> None:
        """Search here from now on."""
        self._retriever, self.last = retriever, ()

    async def open(self, ctx: Context) -> None:
        """Nothing to acquire: the environment holds the retriever."""

    async def __call__(self, **arguments: JsonValue) -> str:
        """The passages found. Raises ToolError on an empty query."""
        query = str(arguments["query"])
        if not query.strip():
            raise ToolError("The query is empty.")
        if self._retriever is None:
            raise RuntimeError("reset() the environment before searching")
        (hits,) = await self._retriever.search([query], k=self._k)
        self.last = tuple(hits)
        return shown(hits, self._style)

    async def fork(self, n: int) -> list[Lookup]:
        """Copies over the same retriever, which nobody writes to."""
        copies = [Lookup(k=self._k, style=self._style) for _ in range(n)]
        for copy in copies:
            copy._retriever, copy.last = self._retriever, self.last
        return copies

    async def close(self) -> None:
        """Let go of the retriever; its owner closes it."""
        self._retriever = None


def shown(hits: Sequence[Hit], style: Style) -> str:
    """The hits, best first: Search-R1's `Doc i(Title: t) text` lines, or bare ones."""
    if not hits:
        return NOTHING
    if style == "terse":
        return "\n".join(f"{hit.passage.title}: {hit.passage.text}" for hit in hits)
    lines = (
        f"Doc {i}(Title: {hit.passage.title}) {hit.passage.text}" for i, hit in enumerate(hits, 1)
    )
    return "\n".join(lines)


__all__ = ["NOTHING", "Lookup", "shown"]
