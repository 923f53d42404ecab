"""Retrievers by name: made from configuration, and one per name and options in a process."""

from __future__ import annotations

import asyncio
import atexit
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agentrl.config import Plugin
from agentrl.plugins import accepts, build
from agentrl.retrieval import Passage, Retriever
from agentrl_tools.search.local import LocalRetriever

Options = Mapping[str, object]


@runtime_checkable
class Idle(Protocol):
    """A retriever that holds connections; local indexes have no need of it."""

    async def idle(self) -> None:
        """Nobody uses it at present: give up this event loop's connections; a search reopens them."""
        ...


@dataclass(slots=True)
class _Shared:
    making: Future[Retriever]
    users: int = 0


_shared: dict[str, _Shared] = {}
_guard = threading.Lock()
_makers = ThreadPoolExecutor(2, thread_name_prefix="agentrl-index")


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

        It is made when the first one asks, off the event loop; who asks meanwhile waits for it.
        """
        with _guard:
            entry = _shared.get(self._key)
            if entry is None:
                making = _makers.submit(make, self.name, self.options, corpus=self.corpus)
                entry = _shared[self._key] = _Shared(making)
            entry.users += 1
        try:
            await _done(entry.making)
            return entry.making.result()
        except BaseException:
            with _guard:
                entry.users -= 1
                failed = entry.making.done() and entry.making.exception() is not None
                if failed and _shared.get(self._key) is entry:
                    del _shared[self._key]
            raise

    async def give_back(self) -> None:
        """End one borrowing. The index stays open for the next episode; idle connections do not."""
        with _guard:
            entry = _shared.get(self._key)
            if entry is None:
                return
            entry.users -= 1
            idle = entry.users == 0
        retriever = entry.making.result()
        if idle and isinstance(retriever, Idle):
            await retriever.idle()

    @property
    def _key(self) -> str:
        return json.dumps([self.name, self.corpus, self.options], sort_keys=True)


async def _done(making: Future[Retriever]) -> None:
    """Wait without a hold on it: an episode that is cancelled must not cancel it for the others."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def told(_: Future[Retriever]) -> None:
        with suppress(RuntimeError):  # the loop of one who waited is closed
            loop.call_soon_threadsafe(wake)

    making.add_done_callback(told)
    await waiter


async def close_all() -> None:
    """Close every shared retriever; the next to borrow one gets it made anew."""
    with _guard:
        entries = list(_shared.values())
        _shared.clear()
    for entry in entries:
        await _done(entry.making)
        if not entry.making.exception():
            await entry.making.result().close()


@atexit.register
def _close_files() -> None:
    for entry in _shared.values():
        if entry.making.done() and not entry.making.exception():
            retriever = entry.making.result()
            if isinstance(retriever, LocalRetriever):
                retriever.shut()


__all__ = ["Idle", "Named", "Options", "close_all", "make", "takes"]
