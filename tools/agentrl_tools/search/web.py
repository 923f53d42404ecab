"""The `web` retriever: a search engine's JSON in Serper's form, cached, paced, replayable."""

from __future__ import annotations

import asyncio
import os
from asyncio import Task
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final
from weakref import WeakValueDictionary

from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.retrieval import Hit, Passage
from agentrl.types import JsonValue
from agentrl_tools.search.answers import Answers, Asked
from agentrl_tools.search.corpus import one_line
from agentrl_tools.search.local import wanted
from agentrl_tools.search.rate import Rate
from agentrl_tools.search.wire import Refused, Wire
from agentrl_tools.search.words import query_words, utf8

_FEWEST = 10
"""Results asked for at least, so that one answer serves every smaller `k`."""
_LONGEST = 2048
"""Characters of a query; search engines refuse longer ones."""


@final
class Web:
    """Searches the web through Serper or any service that answers as it does.

    Serper's form: `POST {"q": query, "num": n}` with the key in `X-API-KEY`, answered by `{"organic":
    [{"title", "link", "snippet"}, ...]}`; a hit's id is its link, its score one over its rank.
    """

    def __init__(
        self,
        *,
        url: str = "https://google.serper.dev/search",
        key_env: str = "SERPER_API_KEY",
        cache: str | None = None,
        replay: bool = False,
        per_second: float = 5.0,
        timeout_s: float = 15.0,
        retries: int = 2,
    ) -> None:
        """`url`: of the service. `key_env`: environment variable that holds its key. `cache`: folder
        in which every answer is kept and looked up first. `replay`: answer from the cache only, and
        never touch the network. `per_second`: requests a second, at most. `timeout_s`: longest wait for
        one answer. `retries`: further attempts when the service is busy or away.

        Raises UserError on impossible options, SetupError when httpx is missing.
        """
        if not url.startswith(("http://", "https://")):
            raise UserError(f"url={url!r} must begin with http:// or https://")
        if per_second <= 0 or timeout_s <= 0 or retries < 0:
            raise UserError("per_second and timeout_s must be positive, retries not negative")
        if replay and cache is None:
            raise UserError("replay=true answers from a cache: set cache=<folder>")
        if replay and not Path(str(cache)).expanduser().is_dir():
            raise UserError(f"replay=true, and there is no folder cache={cache}; record one first")
        self._url, self._key_env, self._replay = url, key_env, replay
        self._answers = None if cache is None else Answers(Path(cache).expanduser())
        self._rate = Rate(per_second)
        self._turns: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        self._wire = Wire("web search", timeout_s=timeout_s, retries=retries)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """At most `k` results per query, as the service ranks them.

        Raises SetupError without a key, WorldFault when the service does not answer or, replaying,
        was never asked this.
        """
        if not wanted(queries, k):
            return [[] for _ in queries]
        self._wire.refuse_if_closed()
        tasks: list[Task[list[Hit]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(self._search(query, k)) for query in queries]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed  # callers sort faults by type
        return [task.result() for task in tasks]

    async def _search(self, query: str, k: int) -> list[Hit]:
        if not query_words(query):
            return []
        asked: Asked = {"url": self._url, "q": utf8(query[:_LONGEST]), "num": max(k, _FEWEST)}
        return read_organic(await self._answer(asked), self._url)[:k]

    async def _answer(self, asked: Asked) -> JsonValue:
        """Kept or fetched; of those who ask the same at once, one fetches and the others wait."""
        if self._answers is None:
            return await self._ask(asked)
        async with self._turn(self._answers.path(asked).name):
            kept = self._answers.get(asked)
            if kept is not None:
                return kept
            if self._replay:
                raise WorldFault(f"replay=true, and the cache holds no answer to {asked['q']!r}")
            answer = await self._ask(asked)
            self._answers.put(asked, answer)
            return answer

    def _turn(self, name: str) -> asyncio.Lock:
        key = (id(asyncio.get_running_loop()), name)
        lock = self._turns.get(key)
        if lock is None:
            self._turns[key] = lock = asyncio.Lock()
        return lock

    async def _ask(self, asked: Asked) -> JsonValue:
        key = os.environ.get(self._key_env)
        if not key:
            raise SetupError(f"searching the web needs a key: set ${self._key_env}")
        await asyncio.sleep(self._rate.wait_s())
        body = {"q": asked["q"], "num": asked["num"]}
        try:
            answer = await self._wire.post(self._url, body, {"X-API-KEY": key})
        except Refused as error:
            if error.status in (401, 403):
                raise SetupError(f"{self._url} refused the key in ${self._key_env}") from None
            told = f"{self._url} refused a search with status {error.status}"
            raise WorldFault(told) from None
        read_organic(answer, self._url)  # refuses what must not be kept
        return answer

    async def idle(self) -> None:
        """Close connections that nobody uses."""
        await self._wire.idle()

    async def close(self) -> None:
        """Close connections for good."""
        await self._wire.close()


def read_organic(answer: JsonValue, url: str) -> list[Hit]:
    """The results of an answer in Serper's form, first ones first, each link once."""
    rows = answer.get("organic", []) if isinstance(answer, Mapping) else None
    if not isinstance(rows, list):
        raise WorldFault(f'{url} does not answer as Serper does: "organic" is no list')
    passages: dict[str, Passage] = {}
    for row in rows:
        if isinstance(row, Mapping) and (link := _text(row.get("link"))):
            title, text = _text(row.get("title")), _text(row.get("snippet"))
            passages.setdefault(link, Passage(link, one_line(title), text))
    return [Hit(passage, 1.0 / rank) for rank, passage in enumerate(passages.values(), 1)]


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


__all__ = ["Web", "read_organic"]
