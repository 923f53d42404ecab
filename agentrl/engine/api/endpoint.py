"""Streams from an OpenAI-compatible endpoint, asked again where that can help.

Too many requests, server errors and lost connections are tried again with growing, jittered pauses, or
after the pause the server asks for, which holds back every other request too. The key comes from a
named environment variable and appears in no message, no log and no repr.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from agentrl.errors import EngineError, SetupError, UserError

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes worth another try."""
CLOSED = frozenset({401, 403, 404})
"""Status codes that no other request will fare better with."""
PAUSE_S = 0.5
"""The first pause; each following is twice as long."""
LONGEST_PAUSE_S = 60.0
WORDS = 300
"""Characters kept of what a server says."""

T = TypeVar("T", covariant=True)


class Reader(Protocol[T]):
    """Takes a stream's events one by one."""

    def take(self, event: Mapping[str, Any]) -> bool:
        """True when nothing more is wanted."""
        ...

    def done(self) -> T:
        """What was read. Raises BrokenOff when the stream ended too early, EngineError for an answer
        that will not come."""
        ...


class BrokenOff(EngineError):
    """A stream ended before its answer did."""


class _Again(Exception):
    """Worth another try, after so many seconds at least."""

    def __init__(self, problem: str, after_s: float = 0.0) -> None:
        super().__init__(problem)
        self.problem, self.after_s = problem, after_s


class Endpoint:
    """One base URL with its key; at most `concurrency` requests at once."""

    def __init__(
        self,
        base_url: str,
        *,
        key_env: str | None,
        request_s: float,
        retries: int,
        concurrency: int,
    ) -> None:
        """Raises UserError on a bad setting, SetupError when httpx or the named key is missing."""
        if not base_url.startswith(("http://", "https://")):
            raise UserError(
                f"engine.base_url starts with http:// or https://, such as "
                f"https://api.openai.com/v1; not {base_url!r}"
            )
        if request_s <= 0 or retries < 0 or concurrency < 1:
            raise UserError("engine=api needs request_s > 0, retries >= 0 and concurrency >= 1")
        _httpx()
        self._url = base_url.rstrip("/")
        self._key = _key(key_env)
        self._request_s, self._retries, self._most = request_s, retries, concurrency
        self._slots: asyncio.Semaphore | None = None
        self._client: httpx.AsyncClient | None = None
        self._not_before = 0.0
        """Event-loop time before which the server wants no request."""
        self.asked = self.running = self.waiting = 0
        """Requests sent so far, retries included; requests at this moment."""

    def __repr__(self) -> str:
        return f"Endpoint({self._url!r})"

    async def open(self) -> None:
        """Nothing is sent yet."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = _httpx().AsyncClient(headers=headers, timeout=self._request_s)
        self._slots, self._not_before = asyncio.Semaphore(self._most), 0.0

    async def close(self) -> None:
        """Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def read(
        self, path: str, body: Mapping[str, object], make: Callable[[], Reader[T]], rng: Random
    ) -> T:
        """Post `body` and read the stream with a fresh reader per try.

        Raises EngineError after the last try, UserError for an endpoint that will refuse everything.
        """
        if self._slots is None:
            raise EngineError("engine api is not open")
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            return await self._persist(path, body, make, rng)
        finally:
            self.running -= 1
            self._slots.release()

    async def _persist(
        self, path: str, body: Mapping[str, object], make: Callable[[], Reader[T]], rng: Random
    ) -> T:
        clock, problem = asyncio.get_running_loop().time, ""
        for attempt in range(self._retries + 1):
            await asyncio.sleep(max(0.0, self._not_before - clock()))
            try:
                return await self._try(path, body, make())
            except _Again as again:
                problem = again.problem
                pause = min(LONGEST_PAUSE_S, PAUSE_S * 2**attempt) * (0.5 + rng.random())
                self._not_before = max(self._not_before, clock() + again.after_s)
                if attempt < self._retries:
                    await asyncio.sleep(max(pause, again.after_s))
        raise EngineError(f"{self._url} failed {self._retries + 1} times: {problem}")

    async def _try(self, path: str, body: Mapping[str, object], reader: Reader[T]) -> T:
        httpx = _httpx()
        if self._client is None:
            raise EngineError("engine api is not open")
        self.asked += 1
        try:
            async with self._client.stream("POST", self._url + path, json=body) as response:
                if response.status_code != HTTPStatus.OK:
                    await response.aread()
                    raise self._refused(response)
                async with aclosing(_events(response)) as events:
                    async for event in events:
                        if "error" in event:
                            raise _Again(self._words(event))
                        if reader.take(event):
                            break
            return reader.done()
        except (httpx.TransportError, BrokenOff) as error:
            raise _Again(f"{type(error).__name__}: {self._hidden(str(error))}") from error

    def _refused(self, response: httpx.Response) -> Exception:
        status = response.status_code
        if status in CLOSED:
            return UserError(
                f"{self._url} refused with status {status}; check engine.base_url, engine.model_id and "
                "the key that engine.key_env names"
            )
        try:
            told = self._words(response.json())
        except ValueError:
            told = self._hidden(response.text)[:WORDS]
        if status in RETRIED:
            return _Again(f"status {status}: {told}", _retry_after(response))
        return EngineError(f"{self._url} refused a request with status {status}: {told}")

    def _words(self, body: object) -> str:
        """A server's message, however it wrapped it."""
        found = body
        while isinstance(found, Mapping):
            inner = cast("Mapping[str, object]", found)
            found = next(
                (inner[k] for k in ("error", "message", "detail") if k in inner), str(inner)
            )
        return self._hidden(str(found))[:WORDS]

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


async def _events(response: httpx.Response) -> AsyncGenerator[Mapping[str, Any]]:
    """Server-sent events, or the one object of a server that does not stream."""
    kind = response.headers.get("content-type", "")
    try:
        if "event-stream" not in kind:
            yield cast("Mapping[str, Any]", json.loads(await response.aread()))
            return
        async for line in response.aiter_lines():
            if line.startswith("data:") and line[5:].strip() not in ("", "[DONE]"):
                yield cast("Mapping[str, Any]", json.loads(line[5:]))
    except ValueError as error:
        raise _Again("it sent what is not JSON") from error


def _retry_after(response: httpx.Response) -> float:
    """Seconds the server asked to wait, bounded; 0 when it did not say."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return min(LONGEST_PAUSE_S, max(0.0, float(response.headers[name]) * unit))
        except (KeyError, ValueError):
            continue
    return 0.0


def _key(key_env: str | None) -> str:
    if key_env is None:
        return ""
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise SetupError(f"engine.key_env names {key_env}, which is not set; export it first")
    return key


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise SetupError(
            "engine=api needs httpx: pip install 'agentrl-framework[remote]'"
        ) from error
    return httpx


__all__ = ["BrokenOff", "Endpoint", "Reader"]
