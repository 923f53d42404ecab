"""Finding passages: the contract of every search back end, local or behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Passage:
    """One document of a corpus, as short as it is shown."""

    id: str
    """Unique in its corpus."""
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    passage: Passage
    score: float
    """Higher is better; comparable within one query only."""


@runtime_checkable
class Retriever(Protocol):
    """Searches one corpus. Safe to share among episodes; registered under `agentrl.retrievers`."""

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """At most `k` hits per query, best first, ties by passage id.

        Any text is a query: operators and quotes are words like others, and a query that holds no
        word finds nothing. Raises WorldFault when the back end cannot answer.
        """
        ...

    async def close(self) -> None:
        """Release files and connections. Idempotent."""
        ...


__all__ = ["Hit", "Passage", "Retriever"]
