"""Requests to one server: pooled, bounded, retried only where nothing can have run.

Retried, with full jitter and within a deadline: connections that could not be made and answers 429,
502, 503 and 504. What may have run is not sent again unless the caller says that it is safe. Every
way to fail ends in SandboxError; a server that hangs or talks nonsense never looks like a result.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import httpx

from agentrl.errors import SandboxError
from agentrl.types import JsonValue

BUSY = frozenset({429, 502, 503, 504})
_BASE_S, _MOST_S = 0.1, 5.0
_CONNECT_S = 5.0
_MAX_ANSWER_BYTES = 64 << 20
Body: TypeAlias = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a server is reached."""

    url: str
    token: str | None = field(default=None, repr=False)
    at_once: int = 64
    """Requests in flight."""
    retries: int = 5
    """Further attempts after the first."""
    transport: httpx.AsyncBaseTransport | None = None
    """None: the network."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is JSON."""

    status: int
    body: JsonValue
    queue_s: float
    """Seconds spent waiting for a place among the requests in flight, and between attempts."""

    @property
    def fields(self) -> Body:
        """The body as an object. Raises SandboxError when it is none."""
        if not isinstance(self.body, Mapping):
            raise SandboxError(f"the sandbox server answered {str(self.body)[:80]!r}, no object")
        return cast(Body, self.body)


class Unauthorized(SandboxError):
    """The server wants another token."""


class Unreachable(SandboxError):
    """No connection could be made, however often it was tried."""


class Wire:
    """One server. Opened by its first request, closed by `close`."""

    def __init__(self, wiring: Wiring) -> None:
        self.url = wiring.url.rstrip("/")
        self._wiring = wiring
        self._slots = asyncio.Semaphore(wiring.at_once)
        self._client: httpx.AsyncClient | None = None

    def _live_client(self) -> httpx.AsyncClient:
        if self._client is None:
            headers = {"Content-Type": "application/json"}
            if self._wiring.token:
                headers["Authorization"] = f"Bearer {self._wiring.token}"
            most = self._wiring.at_once
            self._client = httpx.AsyncClient(
                base_url=self.url,
                headers=headers,
                # Closing before the server does: else a request may meet a connection just ended.
                limits=httpx.Limits(
                    max_connections=most, max_keepalive_connections=most, keepalive_expiry=3.0
                ),
                timeout=httpx.Timeout(None, connect=_CONNECT_S),
                transport=self._wiring.transport,
                # Proxies and certificates of the environment are for the world outside; servers
                # of one's own network are spoken to directly.
                trust_env=self.url.startswith("https://"),
            )
        return self._client

    async def ask(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        budget_s: float,
        repeatable: bool = False,
    ) -> Answer:
        """Send a request until it is answered, within `budget_s` seconds from its first sending.

        `repeatable`: send it again also when the connection broke after it was sent.
        Raises SandboxError.
        """
        began = time.monotonic()
        content = None if body is None else json.dumps(body).encode()
        async with self._slots:
            try:
                async with asyncio.timeout(budget_s):
                    return await self._persist(method, path, content, repeatable, began)
            except TimeoutError as error:
                raise SandboxError(
                    f"the sandbox server {self.url} did not answer within {budget_s:g} s"
                ) from error

    async def _persist(
        self, method: str, path: str, content: bytes | None, repeatable: bool, began: float
    ) -> Answer:
        tries = self._wiring.retries + 1
        for attempt in range(tries):
            queue_s = time.monotonic() - began
            try:
                return await self._once(method, path, content, repeatable, queue_s)
            except _Again as error:
                if attempt + 1 == tries:
                    kind = Unreachable if error.status is None else SandboxError
                    raise kind(
                        f"the sandbox server {self.url} failed {tries} times: {error}"
                    ) from error
                pause_s = _pause_s(attempt, error.after_s)
            await asyncio.sleep(pause_s)
        raise AssertionError("an attempt either answers or raises")

    async def _once(
        self, method: str, path: str, content: bytes | None, repeatable: bool, queue_s: float
    ) -> Answer:
        try:
            status, after_s, data = await self._exchange(method, path, content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _Again(_named(error), None, None) from error
        except httpx.HTTPError as error:
            if repeatable:
                raise _Again(_named(error), None, None) from error
            raise SandboxError(f"the sandbox server {self.url} hung up: {_named(error)}") from error
        if status in BUSY:
            raise _Again(f"{status} {_gist(data)}", status, after_s)
        if status in (401, 403):
            raise Unauthorized(f"the sandbox server {self.url} refused: {status} {_gist(data)}")
        try:
            body: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SandboxError(
                f"the sandbox server {self.url} answered {status} with what is no JSON: {_gist(data)}"
            ) from error
        return Answer(status, body, queue_s)

    async def _exchange(
        self, method: str, path: str, content: bytes | None
    ) -> tuple[int, float | None, bytes]:
        client = self._live_client()
        async with client.stream(method, path, content=content) as response:
            data = bytearray()
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > _MAX_ANSWER_BYTES:
                    raise SandboxError(f"the sandbox server {self.url} answered without end")
            return response.status_code, _seconds(response.headers.get("retry-after")), bytes(data)

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class _Again(Exception):
    """An attempt that may be repeated."""

    def __init__(self, why: str, status: int | None, after_s: float | None) -> None:
        super().__init__(why)
        self.status = status
        self.after_s = after_s


def _pause_s(attempt: int, after_s: float | None) -> float:
    """Full jitter: uniform below a doubling bound, at least what the server asks for."""
    pause_s = random.uniform(0, min(_MOST_S, _BASE_S * 2**attempt))
    return pause_s if after_s is None else max(pause_s, min(after_s, _MOST_S))


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isascii() and header.isdigit() else None


def _named(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()


def _gist(data: bytes) -> str:
    return repr(data[:200].decode("utf-8", "replace"))


__all__ = ["Answer", "Body", "Unauthorized", "Unreachable", "Wire", "Wiring"]
