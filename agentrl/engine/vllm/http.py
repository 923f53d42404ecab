"""HTTP to a vLLM server: JSON there, JSON or a stream of it back, every failure an EngineError.

Each request has a connection of its own: closing it is how a request is aborted, and nothing is
shared between event loops.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from agentrl.errors import DeadlineExceeded, EngineError, SetupError

if TYPE_CHECKING:
    from aiohttp import ClientResponse

Json: TypeAlias = "dict[str, Any]"

CONNECT_S = 10.0
LINE_LIMIT = 1 << 24
"""Longest line of a stream, in bytes."""


class ServerGone(EngineError):
    """The connection failed: the server has ended or cannot be reached."""


class ServerClient:
    """Speaks to one server."""

    def __init__(self, url: str, socket: Path | None, *, key_name: str | None = None) -> None:
        """url: root of the server. socket: file to connect to instead of the url's host. key_name:
        environment variable with the server's API key.

        Raises SetupError without aiohttp.
        """
        try:
            import aiohttp
        except ImportError as error:
            raise SetupError(
                "engine=vllm_server needs aiohttp: pip install 'agentrl-framework[vllm]'"
            ) from error
        self._aiohttp = aiohttp
        self._url, self._socket = url.rstrip("/"), socket
        self.address = self._url, socket
        key = os.environ.get(key_name) if key_name else None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def healthy(self) -> bool:
        """Whether the server answers that it is ready."""
        try:
            async with self._request("GET", "/health", None, CONNECT_S) as response:
                return response.status == 200
        except (EngineError, DeadlineExceeded):
            return False

    async def get(self, path: str, timeout_s: float) -> Json:
        """The JSON at a path."""
        async with self._request("GET", path, None, timeout_s) as response:
            return await self._json(response)

    async def post(self, path: str, body: Mapping[str, object], timeout_s: float) -> Json:
        """Send JSON, get JSON. Raises EngineError with the server's words on any other status."""
        async with self._request("POST", path, body, timeout_s) as response:
            return await self._json(response)

    async def stream(
        self, path: str, body: Mapping[str, object], timeout_s: float
    ) -> AsyncGenerator[Json]:
        """Send JSON, get one JSON per server-sent event. Close the iterator to abort."""
        async with self._request("POST", path, body, timeout_s) as response:
            if response.status != 200:
                await self._json(response)
            async for line in response.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    event = cast(Json, json.loads(line[6:]))
                    if "error" in event:
                        raise EngineError(f"the vLLM server failed a request: {_words(event)}")
                    yield event

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> AsyncGenerator[ClientResponse]:
        http = self._aiohttp
        timeout = http.ClientTimeout(total=timeout_s, connect=CONNECT_S)
        connector = None if self._socket is None else http.UnixConnector(str(self._socket))
        try:
            async with (
                http.ClientSession(
                    connector=connector,
                    timeout=timeout,
                    headers=self._headers,
                    read_bufsize=LINE_LIMIT,
                ) as session,
                session.request(method, self._url + path, json=body) as response,
            ):
                yield response
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the vLLM server did not answer {path} within {timeout_s:g} s"
            ) from error
        except (http.ClientError, OSError, ValueError) as error:
            raise ServerGone(
                f"the vLLM server is gone: {path}: {type(error).__name__}: {error}"
            ) from error

    async def _json(self, response: ClientResponse) -> Json:
        text = await response.text()
        try:
            body = cast(Json, json.loads(text)) if text else {}
        except ValueError:
            body = {"error": text[:500]}
        if response.status != 200:
            raise EngineError(
                f"the vLLM server refused {response.url.path} with status {response.status}: "
                f"{_words(body)}"
            )
        return body


def _words(body: Json) -> str:
    """The server's message, however it wrapped it."""
    error = body.get("error", body.get("detail", body))
    if isinstance(error, dict):
        error = cast(Json, error).get("message", cast(Json, error))
    return str(error)[:500]


__all__ = ["Json", "ServerClient", "ServerGone"]
