"""Any agentrl tools as an MCP server, over stdio or streamable HTTP.

The newest MCP revision has no sessions over HTTP, and tools with a sandbox need them: `server/discover`
therefore names the handshake revisions, and every client then opens a session. Over stdio the
process is the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentrl import __version__
from agentrl.errors import AgentRLError, SetupError
from agentrl.sandbox import SandboxPool
from agentrl.serve.door import Bearer, Door
from agentrl.serve.running import server_over
from agentrl.serve.tool_sessions import ToolSessions
from agentrl.toolset import Named
from agentrl.types import ToolCall, ToolResult

if TYPE_CHECKING:
    from mcp.server import Server, ServerRequestContext
    from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult

PATH = "/mcp"
_SESSION = "mcp-session-id"
STDIO = "stdio"


@dataclass(frozen=True, slots=True)
class ToolRules:
    """What a tool server allows."""

    call_s: float = 60.0
    """Seconds one call may take."""
    idle_s: float = 1800.0
    """After which an unused session is closed."""
    sessions: int = 1024
    """Open at once."""


def mcp_server(sessions: ToolSessions, rules: ToolRules) -> Server[Any]:
    """The mcp package's server over tool sessions. Raises SetupError without the package."""
    try:
        from mcp.server import Server
    except ImportError as error:
        raise SetupError(
            "serving MCP needs the mcp package: pip install 'agentrl-framework[mcp,serve]'"
        ) from error
    handlers = _Handlers(sessions, rules.call_s)
    return Server(
        "agentrl",
        version=__version__,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
    )


def _with_sessions(server: Server[Any]) -> Server[Any]:
    """The server as one that knows only the revisions with sessions."""
    from mcp.types import DiscoverResult, RequestParams
    from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

    async def discover(ctx: object, params: object) -> DiscoverResult:
        return DiscoverResult(
            supported_versions=list(HANDSHAKE_PROTOCOL_VERSIONS),
            capabilities=server.get_capabilities(),
        )

    server.add_request_handler("server/discover", RequestParams, discover)
    return server


class _Handlers:
    """What the server answers; a session is found by the request's session id."""

    def __init__(self, sessions: ToolSessions, call_s: float) -> None:
        self._sessions = sessions
        self._call_s = call_s
        self._calls = 0

    async def list_tools(self, ctx: ServerRequestContext[Any], params: object) -> ListToolsResult:
        """The tools of the client's session."""
        from mcp.types import ListToolsResult, Tool, ToolAnnotations

        try:
            session = await self._sessions.get(_session_of(ctx))
        except AgentRLError as error:
            raise _refusal(error) from error
        return ListToolsResult(
            tools=[
                Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=dict(tool.schema),
                    annotations=ToolAnnotations(read_only_hint=True) if tool.parallel else None,
                )
                for tool in session.tools.values()
            ]
        )

    async def call_tool(
        self, ctx: ServerRequestContext[Any], params: CallToolRequestParams
    ) -> CallToolResult:
        """One call, its faults told as `isError`; the world's are errors of the protocol."""
        self._calls += 1
        call = ToolCall(f"mcp_{self._calls}", params.name, params.arguments or {})
        try:
            result = await self._sessions.call(_session_of(ctx), call, self._call_s)
        except AgentRLError as error:
            raise _refusal(error) from error
        return _told(result)


def _session_of(ctx: ServerRequestContext[Any]) -> str:
    """The id of the client's session. Raises MCPError for a request over HTTP without one."""
    from mcp import MCPError
    from mcp.types import INVALID_REQUEST

    if ctx.request is None:
        return STDIO
    name = ctx.request.headers.get(_SESSION)
    if name is None:
        raise MCPError(INVALID_REQUEST, "these tools remember: send `initialize` to get a session")
    return str(name)


def _refusal(error: AgentRLError) -> Exception:
    from mcp import MCPError
    from mcp.types import INTERNAL_ERROR

    return MCPError(INTERNAL_ERROR, str(error))


def _told(result: ToolResult) -> CallToolResult:
    from mcp.types import CallToolResult, TextContent

    text = TextContent(type="text", text=result.content)
    return CallToolResult(content=[text], is_error=result.error is not None)


def mcp_app(
    sessions: ToolSessions, rules: ToolRules, door: Door, pool: SandboxPool | None
) -> Starlette:
    """The application at `/mcp`; its shutdown closes every session, then the pool."""
    from mcp.server.transport_security import TransportSecuritySettings

    local = [f"{host}:*" for host in door.hosts]
    inner = _with_sessions(mcp_server(sessions, rules)).streamable_http_app(
        streamable_http_path=PATH,
        session_idle_timeout=rules.idle_s,
        max_sessions=rules.sessions,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=door.local,
            allowed_hosts=local,
            allowed_origins=[f"http://{host}" for host in local],
        ),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with inner.router.lifespan_context(inner), asyncio.TaskGroup() as group:
            reaper = group.create_task(sessions.reap())
            try:
                yield
            finally:
                reaper.cancel()
        await sessions.close_all()
        if pool is not None:
            await pool.close()

    guarded: ASGIApp = _Ending(inner, sessions)
    if door.token is not None:
        guarded = Bearer(guarded, door.token)
    return Starlette(routes=[Route(PATH, guarded)], lifespan=lifespan)


class _Ending:
    """Closes the tools of a session that its client ended (DELETE)."""

    def __init__(self, app: ASGIApp, sessions: ToolSessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def watched(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                ended = message["status"] < 400
            await send(message)

        deleting = scope["type"] == "http" and scope["method"] == "DELETE"
        await self._app(scope, receive, watched if deleting else send)
        if ended:
            await self._sessions.close(dict(scope["headers"]).get(_SESSION.encode(), b"").decode())


async def serve_http(
    make: Callable[[], Sequence[Named]],
    pool: SandboxPool | None,
    rules: ToolRules,
    door: Door,
    listening: socket.socket,
) -> None:
    """Serve until SIGINT or SIGTERM over an open pool."""
    sessions = ToolSessions(make, pool, idle_s=rules.idle_s, most=rules.sessions)
    await server_over(mcp_app(sessions, rules, door, pool)).serve(sockets=[listening])


async def serve_stdio(
    make: Callable[[], Sequence[Named]], pool: SandboxPool | None, rules: ToolRules
) -> None:
    """Serve the process's standard streams until the client closes them."""
    sessions = ToolSessions(make, pool, idle_s=rules.idle_s, most=1)
    server = mcp_server(sessions, rules)
    from mcp.server.stdio import stdio_server

    try:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        await sessions.close_all()
        if pool is not None:
            await pool.close()


__all__ = ["PATH", "ToolRules", "mcp_app", "mcp_server", "serve_http", "serve_stdio"]
