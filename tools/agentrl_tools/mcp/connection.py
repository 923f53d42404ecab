"""One live connection to an MCP server, usable from any event loop."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from time import monotonic
from typing import IO, TYPE_CHECKING, TypeVar, cast

import anyio

from agentrl.errors import SetupError, ToolError, UserError, WorldFault
from agentrl.types import JsonValue
from agentrl_tools import background
from agentrl_tools.mcp.target import Target

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp.types import Tool as ServerTool

T = TypeVar("T")

CLOSE_S = 10.0
_PAGES = 100
_TAIL_CHARS = 200


class ServerLost(WorldFault, RuntimeError):
    """The MCP server died, or cannot be reached."""


class Connection:
    """A server that is started or called at once, and lives until `close` or its own death."""

    def __init__(self, target: Target, connect_s: float) -> None:
        """`connect_s` is the longest that it may take to answer for the first time."""
        self._target = target
        self._connect_s = connect_s
        self._began = monotonic()
        self._errors = cast(IO[str], tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115 closed in close
        self._ready: Future[tuple[str, tuple[ServerTool, ...]]] = Future()
        self._client: Client | None = None
        self._closing: anyio.Event | None = None
        self._lost = False
        self._said = ""
        self._life = background.start(self._live)
        self._life.add_done_callback(self._ended)

    @property
    def alive(self) -> bool:
        """Worth calling, as far as is known."""
        return not (self._lost or self._life.done())

    async def tools(self, within_s: float) -> tuple[str, tuple[ServerTool, ...]]:
        """The server's name for itself and its tools, once it has answered.

        Raises ServerLost when it does not, UserError when it speaks another protocol, SetupError
        without the mcp package.
        """
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(_watched(self._ready))
        except TimeoutError as error:
            if monotonic() - self._began >= self._connect_s:  # else another may wait longer
                self._lost = True
                self._life.cancel()
            raise ServerLost(
                f"the MCP server {self._target.shown} did not answer within {within_s:g} seconds"
            ) from error
        except (SetupError, UserError):
            raise
        except Exception as error:
            raise self._refused(error) from error

    async def call(self, name: str, arguments: Mapping[str, JsonValue]) -> CallToolResult:
        """Call a tool by the server's name for it.

        Raises ToolError when the server refuses the call, ServerLost when it dies over it.
        """
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        try:
            return await background.run(self._call, name, dict(arguments))
        except MCPError as error:
            if error.code != CONNECTION_CLOSED and self.alive:
                raise ToolError(f"{name}: {error.message}") from error
            cause = error
        except (
            OSError,
            RuntimeError,
            anyio.ClosedResourceError,
            anyio.BrokenResourceError,
        ) as error:
            cause = error
        self._lost = True
        said = self._last_words()
        background.start(self._ask_to_end)
        raise ServerLost(
            f"the MCP server {self._target.shown} died while {name} ran{said}"
        ) from cause

    async def close(self) -> None:
        """End the session, and the server if it was started here. Idempotent."""
        self._lost = True
        if not self._life.done():
            background.start(self._ask_to_end)
            _, late = await asyncio.wait([_watched(self._life)], timeout=CLOSE_S)
            if late:
                self._life.cancel()

    async def _live(self) -> None:
        self._closing = anyio.Event()
        async with self._target.client(self._errors) as client:
            self._client = client
            info = client.server_info
            self._ready.set_result((info.name if info else "", await _listed(client)))
            await self._closing.wait()

    async def _call(self, name: str, arguments: dict[str, JsonValue]) -> CallToolResult:
        if self._client is None:
            raise RuntimeError("the connection is closed")
        return await self._client.call_tool(name, arguments)

    async def _ask_to_end(self) -> None:
        if self._closing is None:
            self._life.cancel()
        else:
            self._closing.set()

    def _ended(self, life: Future[None]) -> None:
        """Runs in the background thread; whoever still waits for the tools is told."""
        self._client, self._lost = None, True
        self._said = self._last_words()
        self._errors.close()
        if self._ready.done():
            return
        error = None if life.cancelled() else life.exception()
        self._ready.set_exception(error or RuntimeError("it was closed"))

    def _refused(self, error: Exception) -> Exception:
        leaf = _first(error)
        shown = self._target.shown
        code = getattr(leaf, "code", None)
        from mcp.types import UNSUPPORTED_PROTOCOL_VERSION

        if code == UNSUPPORTED_PROTOCOL_VERSION or "protocol version" in str(leaf).lower():
            return UserError(
                f"the MCP server {shown} speaks another version of the protocol ({leaf}); "
                "upgrade the older of the two: `pip install -U mcp` here, or the server"
            )
        how = "could not be started" if self._target.command else "cannot be reached"
        return ServerLost(f"the MCP server {shown} {how}: {_sentence(leaf)}{self._last_words()}")

    def _last_words(self) -> str:
        """The last line the command wrote to stderr, for messages."""
        try:
            file = self._errors.fileno()
            start = max(0, os.fstat(file).st_size - 4096)
            text = os.pread(file, 4096, start).decode(errors="replace")
        except (ValueError, OSError):  # closed when the server had ended, which kept the words
            return self._said
        lines = text.strip().splitlines()
        return f" (its last words: {lines[-1][-_TAIL_CHARS:]})" if lines else ""


def _watched(future: Future[T]) -> asyncio.Future[T]:
    """The future in this loop; a failure that nobody is left to hear of is no error of the loop."""
    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return waiting


async def _listed(client: Client) -> tuple[ServerTool, ...]:
    tools: list[ServerTool] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tuple(tools)


def _first(error: BaseException) -> BaseException:
    """The first failure inside nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:_TAIL_CHARS].rstrip(".")


_shared: dict[tuple[int, Target], Connection] = {}
_lock = threading.Lock()


def shared(target: Target, connect_s: float) -> Connection:
    """The process's connection to a server; a dead one is replaced."""
    key = (os.getpid(), target)
    with _lock:
        found = _shared.get(key)
        if found is None or not found.alive:
            found = _shared[key] = Connection(target, connect_s)
        return found


__all__ = ["Connection", "ServerLost", "shared"]
