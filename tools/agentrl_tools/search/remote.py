"""The `remote` retriever: a server that speaks Search-R1's `/retrieve`, agentrl's own or another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import final

from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.retrieval import Hit, Passage, split_contents
from agentrl.types import JsonValue
from agentrl_tools.search.corpus import one_line
from agentrl_tools.search.local import wanted
from agentrl_tools.search.wire import Refused, Wire
from agentrl_tools.search.words import utf8

TOKEN_ENV = "AGENTRL_RETRIEVER_TOKEN"


@final
class Remote:
    """Asks a Search-R1 retrieval server, such as `agentrl serve retriever` (arXiv:2503.09516)."""

    def __init__(
        self,
        *,
        url: str = "http://127.0.0.1:8000/retrieve",
        token_env: str = TOKEN_ENV,
        timeout_s: float = 15.0,
        retries: int = 3,
        at_once: int = 16,
    ) -> None:
        """`url`: of the server's `/retrieve`. `token_env`: environment variable that holds the
        server's token, if it wants one. `timeout_s`: longest wait for one answer. `retries`: further
        attempts when the server is busy or away. `at_once`: requests in flight; the others wait.

        Raises UserError on an address that is none, SetupError when httpx is missing.
        """
        if not url.startswith(("http://", "https://")):
            raise UserError(f"url={url!r} must begin with http:// or https://")
        if timeout_s <= 0 or retries < 0 or at_once < 1:
            raise UserError("timeout_s and at_once must be positive, retries not negative")
        self._url, self._token_env = url, token_env
        self._wire = Wire("search server", timeout_s=timeout_s, retries=retries, at_once=at_once)

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """What the server found, in its order. Raises WorldFault, SetupError for a wrong token."""
        if not wanted(queries, k):
            return [[] for _ in queries]
        body = {"queries": [utf8(query) for query in queries], "topk": k, "return_scores": True}
        token = os.environ.get(self._token_env)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = await self._wire.post(self._url, body, headers)
        except Refused as error:
            if error.status in (401, 403):
                raise SetupError(
                    f"{self._url} wants another token: set ${self._token_env}"
                ) from error
            told = f"{self._url} refused a search with status {error.status}: {error.told}"
            raise WorldFault(told) from error
        found = read_result(answer, self._url)
        if len(found) != len(queries):
            raise WorldFault(f"{self._url} answered {len(found)} of {len(queries)} queries")
        return [hits[:k] for hits in found]

    async def idle(self) -> None:
        """Close connections that nobody uses."""
        await self._wire.idle()

    async def close(self) -> None:
        """Close connections for good."""
        await self._wire.close()


def read_result(answer: JsonValue, url: str) -> list[list[Hit]]:
    """The hits of a `/retrieve` answer, with scores or without. Raises WorldFault naming `url`."""
    result = answer.get("result") if isinstance(answer, Mapping) else None
    if not isinstance(result, list):
        raise WorldFault(f'{url} does not speak Search-R1: no "result" in its answer')
    found: list[list[Hit]] = []
    for row in result:
        if not isinstance(row, list):
            raise WorldFault(f'{url} does not speak Search-R1: "result" holds a list per query')
        found.append([_hit(item, rank, url) for rank, item in enumerate(row, 1)])
    return found


def _hit(item: JsonValue, rank: int, url: str) -> Hit:
    """A document beside its score, or alone; then its score is one over its rank."""
    fields = _fields(item, url)
    score = fields.get("score")
    document = _fields(fields["document"], url) if "document" in fields else fields
    if isinstance(score, bool) or not isinstance(score, int | float):
        score = 1.0 / rank
    return Hit(_passage(document, url), float(score))


def _passage(document: Mapping[str, JsonValue], url: str) -> Passage:
    name, contents = document.get("id"), document.get("contents")
    title, text = document.get("title", ""), document.get("text", contents)
    if isinstance(contents, str):
        title, text = split_contents(contents)
    if name is None or not isinstance(text, str):
        raise WorldFault(f'{url} does not speak Search-R1: a document needs "id" and "contents"')
    return Passage(str(name), one_line(title) if isinstance(title, str) else "", text)


def _fields(value: JsonValue, url: str) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise WorldFault(f"{url} does not speak Search-R1: a hit must be an object")
    return value


__all__ = ["TOKEN_ENV", "Remote", "read_result"]
