"""The search tool: a query in, passages out, over any retriever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from copy import copy
from functools import cache
from typing import final

from agentrl.context import Context
from agentrl.errors import DeadlineExceeded, ToolError
from agentrl.retrieval import Hit, Retriever
from agentrl.types import JsonValue, ToolResult
from agentrl_tools.search.corpus import STARTER
from agentrl_tools.search.named import Named, takes
from agentrl_tools.search.shown import shown

_log = logging.getLogger("agentrl.tools.search")


@final
class SearchTool:
    """Finds the passages of a corpus that fit a query best.

    Episodes share one retriever per name and options: an index is opened or built once a process.
    """

    name = "search"
    parallel = True
    uses_sandbox = False

    def __init__(
        self,
        *,
        retriever: str | Retriever = "fts5",
        corpus: str | None = None,
        options: Mapping[str, object] | None = None,
        k: int = 3,
        max_chars: int = 2000,
        timeout_s: float = 20.0,
    ) -> None:
        """`retriever`: a name of `agentrl list retrievers`, or one that is open, which its owner
        closes. `corpus`: a .jsonl file or an index made by `agentrl data index`; null
        takes a few dozen passages that come with agentrl. `options`: the retriever's own. `k`:
        passages a call returns. `max_chars`: the observation's budget. `timeout_s`: longest wait
        for an answer.
        """
        if k < 1 or max_chars < 1 or timeout_s <= 0:
            raise ValueError(f"k, max_chars, timeout_s > 0, not {k}, {max_chars}, {timeout_s:g}")
        self._k, self._max_chars, self._timeout_s = k, max_chars, timeout_s
        self._source: Named | Retriever = (
            _named(retriever, options or {}, corpus) if isinstance(retriever, str) else retriever
        )
        self._retriever: Retriever | None = None
        self._ctx = Context()

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return (
            f"Searches a collection of texts and returns the {self._k} passages that fit the "
            "query best."
        )

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """One argument, `query`."""
        query = {"type": "string", "description": "What to look for, in plain words."}
        return {"type": "object", "properties": {"query": query}, "required": ["query"]}

    async def open(self, ctx: Context) -> None:
        """Get hold of the retriever. Raises UserError on a bad corpus, option or name."""
        self._ctx = ctx
        if self._retriever is None:
            source = self._source
            self._retriever = await source.borrow() if isinstance(source, Named) else source

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Search for `query`. Raises ToolError when it is empty, WorldFault when nothing answers."""
        query = str(arguments["query"])
        if not query.strip():
            raise ToolError("The query is empty; say what to look for.")
        if self._retriever is None:
            raise RuntimeError("open() the search tool before calling it")
        hits = await self._found(self._retriever, query)
        clipped = shown(hits, self._max_chars)
        return ToolResult(call_id="", content=clipped.text, truncated=clipped.truncated)

    async def _found(self, retriever: Retriever, query: str) -> list[Hit]:
        limit_s = self._ctx.remaining_s(self._timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                (hits,) = await retriever.search([query], k=self._k)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer to a search within {limit_s:g} s") from error
        return hits

    async def fork(self, n: int) -> list[SearchTool]:
        """Copies over the same retriever, yet to be opened: searching changes nothing."""
        return [self._copy() for _ in range(n)]

    def _copy(self) -> SearchTool:
        made = copy(self)
        made._retriever, made._ctx = None, Context()
        return made

    async def close(self) -> None:
        """Give the retriever back."""
        borrowed = self._retriever is not None
        self._retriever = None
        if borrowed and isinstance(self._source, Named):
            await self._source.give_back()


def _named(name: str, options: Mapping[str, object], corpus: str | None) -> Named:
    """The retriever in words; without a corpus, the starter's where one is needed."""
    if corpus is None and "corpus" not in options and takes(name, "corpus"):
        _warn_once()
        corpus = str(STARTER)
    return Named(name, options, corpus)


@cache
def _warn_once() -> None:
    _log.warning("search: no corpus is set, so a small one that comes with agentrl is searched")
