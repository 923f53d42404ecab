"""What retrievers on this machine share: blocking searches on threads of their own."""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.retrieval import Hit

T = TypeVar("T")


class LocalRetriever(ABC):
    """Searches an index in this process, off the event loop."""

    def __init__(self, *, threads: int) -> None:
        """`threads` searches run at once; the others wait."""
        if threads < 1:
            raise UserError(f"threads must be at least 1, not {threads}")
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="agentrl-search")
        self._closed = False

    @abstractmethod
    def find(self, query: str, k: int) -> list[Hit]:
        """At most `k` > 0 hits, best first, ties by passage id. Runs on any thread of this one."""

    @abstractmethod
    def release(self) -> None:
        """Close files; called once, when no search runs any more."""

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """At most `k` hits per query. Raises WorldFault once closed, UserError for `k` below 0."""
        if not wanted(queries, k):
            return [[] for _ in queries]
        given = list(queries)
        return await self._on_a_thread(lambda: [self.find(query, k) for query in given])

    async def _on_a_thread(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise WorldFault(f"the retriever {type(self).__name__} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """Let running searches end, then close files."""
        await asyncio.to_thread(self.shut)

    def shut(self) -> None:
        """`close` for where no event loop runs."""
        if not self._closed:
            self._closed = True
            self._threads.shutdown(cancel_futures=True)
            self.release()


def wanted(queries: Sequence[str], k: int) -> bool:
    """Whether there is anything to find. Raises UserError for a `k` below 0."""
    if k < 0:
        raise UserError(f"k must not be negative, but is {k}")
    return k > 0 and bool(queries)


def library(module: str, wanted_by: str) -> Any:
    """An optional library, imported now. Raises SetupError naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SetupError(
            f"the {wanted_by} retriever needs {module.partition('.')[0]}: "
            "pip install 'agentrl-framework[search]'"
        ) from error


__all__ = ["LocalRetriever", "library", "wanted"]
