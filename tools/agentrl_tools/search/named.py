"""Retrievers by name: made from configuration, and one per name and options in a process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from agentrl.config import Plugin
from agentrl.plugins import accepts, build
from agentrl.retrieval import Passage, Retriever

Options = Mapping[str, object]


@runtime_checkable
class Idle(Protocol):
    """A retriever that holds connections; local indexes have no need of it."""

    async def idle(self) -> None:
        """Nobody uses it at present: give up this event loop's connections; a search reopens them."""
        ...


@dataclass(slots=True)
class _Shared:
    lock: threading.Lock = field(default_factory=threading.Lock)
    retriever: Retriever | None = None
    users: int = 0

    def made(self, words: Named) -> Retriever:
        """The retriever, made by whoever comes first."""
        with self.lock:
            if self.retriever is None:
                self.retriever = make(words.name, words.options, corpus=words.corpus)
            return self.retriever


_shared: dict[str, _Shared] = {}
_guard = threading.Lock()


def make(
    name: str,
    options: Options,
    *,
    corpus: str | None = None,
    passages: Sequence[Passage] | None = None,
) -> Retriever:
    """A retriever of one's own. May take as long as indexing its corpus does.

    `corpus` and `passages` are handed to a retriever that takes them. Raises UserError on an unknown
    name or option.
    """
    handed: dict[str, object] = {"corpus": corpus, "passages": passages}
    host = {key: value for key, value in handed.items() if value is not None}
    taken = {key: value for key, value in host.items() if takes(name, key)}
    return build("retriever", Plugin.model_validate({"name": name, **options}), **taken)


def takes(name: str, option: str) -> bool:
    """Whether the retriever of that name has an option. Raises UserError on an unknown name."""
    return accepts("retriever", name, option)


@dataclass(frozen=True, slots=True)
class Named:
    """A retriever in words, which all who use the same words share."""

    name: str
    options: Options
    corpus: str | None

    async def borrow(self) -> Retriever:
        """The process's own of these words; `give_back` it when done with it.

        The first to ask waits while it is made, off the event loop; so do those who ask meanwhile.
        """
        entry = self._entry()
        retriever = await asyncio.to_thread(entry.made, self)
        with _guard:
            entry.users += 1
        return retriever

    async def give_back(self) -> None:
        """End one borrowing. The index stays open for the next episode; idle connections do not."""
        entry = self._entry()
        with _guard:
            entry.users -= 1
            idle = entry.users == 0
        if idle and isinstance(entry.retriever, Idle):
            await entry.retriever.idle()

    def _entry(self) -> _Shared:
        key = json.dumps([self.name, self.corpus, self.options], sort_keys=True)
        with _guard:
            return _shared.setdefault(key, _Shared())


async def close_all() -> None:
    """Close every shared retriever; the next to borrow one gets it made anew."""
    with _guard:
        entries = list(_shared.values())
        _shared.clear()
    for entry in entries:
        if entry.retriever is not None:
            await entry.retriever.close()


__all__ = ["Idle", "Named", "Options", "close_all", "make", "takes"]
