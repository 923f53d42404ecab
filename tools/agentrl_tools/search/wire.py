"""JSON over HTTP with retries, for retrievers that live elsewhere."""

from __future__ import annotations

import asyncio
import json
from asyncio import AbstractEventLoop
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from agentrl.errors import WorldFault
from agentrl.types import JsonValue
from agentrl_tools.search.local import library

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_LONGEST_QUOTE = 200
_BUSY = 429


class Refused(Exception):
    """The server's answer to a request it will not serve: a status of 400 to 499."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(status, told)
        self.status = status
        self.told = told


@dataclass(frozen=True, slots=True)
class _Client:
    """One event loop's connections."""

    http: Any
    slots: asyncio.Semaphore

    async def post(
        self, url: str, body: Mapping[str, JsonValue], headers: Mapping[str, str]
    ) -> Any:
        content = json.dumps(body).encode("ascii")
        sent = {"Content-Type": "application/json", **headers}
        return await self.http.post(url, content=content, headers=sent)


class Wire:
    """Posts JSON; a busy or absent server is tried again. Usable from several event loops."""

    def __init__(self, what: str, *, timeout_s: float, retries: int, at_once: int = 16) -> None:
        """`what` names the server in errors. `timeout_s`: longest wait for one answer. `retries`:
        further attempts. `at_once`: connections.

        Raises SetupError when httpx is missing.
        """
        self._httpx = library("httpx", what)
        self._what = what
        self._timeout_s, self._retries, self._at_once = timeout_s, retries, at_once
        self._clients: WeakKeyDictionary[AbstractEventLoop, _Client] = WeakKeyDictionary()
        self._closed = False

    async def post(
        self, url: str, body: Mapping[str, JsonValue], headers: Mapping[str, str]
    ) -> JsonValue:
        """The server's JSON. Raises Refused, WorldFault when no answer can be had.

        Neither holds the headers, which may carry a secret.
        """
        told = ""
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S))
            client = self._client()
            try:
                # Those who wait do so here: httpx slows down with the square of what it holds.
                async with client.slots, asyncio.timeout(self._timeout_s):
                    answer = await client.post(url, body, headers)
            except TimeoutError:
                told = f"no answer within {self._timeout_s:g} s"
            except self._httpx.TransportError as error:
                told = str(error) or type(error).__name__
            else:
                if answer.status_code < 400:
                    return self._read(url, answer.content)
                told = f"status {answer.status_code}: {_quoted(answer.text, headers)}"
                if answer.status_code < 500 and answer.status_code != _BUSY:
                    raise Refused(answer.status_code, _quoted(answer.text, headers))
        raise WorldFault(f"the {self._what} {url} cannot be reached: {told}")

    def refuse_if_closed(self) -> None:
        """Raises WorldFault once closed."""
        if self._closed:
            raise WorldFault(f"the {self._what} retriever is closed")

    def _client(self) -> _Client:
        self.refuse_if_closed()
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            limits = self._httpx.Limits(
                max_connections=self._at_once, max_keepalive_connections=self._at_once
            )
            made = self._httpx.AsyncClient(limits=limits, timeout=None)
            client = self._clients[loop] = _Client(made, asyncio.Semaphore(self._at_once))
        return client

    def _read(self, url: str, content: bytes) -> JsonValue:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise WorldFault(f"the {self._what} {url} did not answer in JSON: {error}") from error

    async def idle(self) -> None:
        """Close this event loop's connections; the next request opens them again."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.http.aclose()

    async def close(self) -> None:
        """Close this event loop's connections for good."""
        self._closed = True
        await self.idle()


def _quoted(text: str, headers: Mapping[str, str]) -> str:
    """The beginning of what a server said, without what it was told in secret."""
    for value in headers.values():
        text = text.replace(value.removeprefix("Bearer "), "***")
    return " ".join(text.split())[:_LONGEST_QUOTE]


__all__ = ["Refused", "Wire"]
