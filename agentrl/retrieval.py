"""Finding passages: the contract of every search back end, local or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def contents_of(passage: Passage) -> str:
    """A passage in one string, as Search-R1 (arXiv:2503.09516) stores, serves and shows it.

    The title in quotes, a line break, the text; a text of one line without a title stands alone.
    `split_contents` gives both back.
    """
    if not passage.title and "\n" not in passage.text:
        return passage.text
    return f'"{passage.title}"\n{passage.text}'


def split_contents(contents: str) -> tuple[str, str]:
    """Title and text: the first line without its quotes, then the rest; no title on one line."""
    first, newline, rest = contents.partition("\n")
    if not newline:
        return "", contents
    quoted = len(first) > 1 and first.startswith('"') and first.endswith('"')
    return (first[1:-1] if quoted else first), rest


@runtime_checkable
class IndexBuilder(Protocol):
    """A retriever class whose index can be written beforehand, by `agentrl data index`.

    Its constructor takes `corpus`: a .jsonl file, or what `build_index` wrote.
    """

    def build_index(
        self, corpus: Path, index: Path, told: Callable[[int], None], **options: object
    ) -> int:
        """A class method: write the index of `corpus` to `index`, a path where nothing is yet.

        `told` hears how many bytes of the corpus have been read; `options` are the constructor's.
        Returns the number of passages. Raises UserError naming file and line of what is wrong.
        """
        ...


__all__ = ["Hit", "IndexBuilder", "Passage", "Retriever", "contents_of", "split_contents"]
