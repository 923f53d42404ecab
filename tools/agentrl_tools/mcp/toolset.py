"""A server's tools as agentrl tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast, final

from agentrl.context import Context
from agentrl.errors import CannotFork, UserError
from agentrl.suggest import did_you_mean
from agentrl.types import JsonValue, ToolResult
from agentrl_tools.mcp.connection import Connection, ServerLost, shared
from agentrl_tools.mcp.results import as_result
from agentrl_tools.mcp.target import Target

if TYPE_CHECKING:
    from mcp.types import Tool as ServerTool


@final
class McpServer:
    """Every tool of an MCP server, started by a command (stdio) or called at a URL (streamable HTTP)."""

    def __init__(
        self,
        *,
        command: Sequence[str] = (),
        url: str | None = None,
        per_episode: bool = False,
        label: str | None = None,
        only: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        pass_env: Sequence[str] = (),
        token_env: str | None = None,
        cwd: str | None = None,
        connect_s: float = 60.0,
        max_chars: int = 4000,
    ) -> None:
        """Name a server; nothing is started before an episode opens.

        Args:
            command: program and arguments of a server that speaks over its standard streams.
            url: address of a server that listens.
            per_episode: a connection (and process) for each episode instead of one that all
                episodes of this process share: for servers that remember what they were asked.
            label: goes before a tool's name when another tool has the same; the server's own name
                for itself unless given.
            only: names of the tools to take; all of them unless given.
            env: variables set for the command, beside PATH, HOME and the like.
            pass_env: names of this process's variables that the command gets as well.
            token_env: name of the variable whose value the URL's server wants as bearer token.
            cwd: folder the command runs in.
            connect_s: seconds within which the server must list its tools.
            max_chars: budget of one result; longer ones lose their middle.

        Raises UserError on a target that cannot be meant.
        """
        if connect_s <= 0 or max_chars < 2:
            raise UserError("mcp: connect_s is above 0 and max_chars at least 2")
        self._target = Target.checked(
            Target(
                command=tuple(command),
                url=url,
                env=tuple(sorted((env or {}).items())),
                pass_env=tuple(pass_env),
                cwd=cwd,
                token_env=token_env,
            )
        )
        self.per_episode = per_episode
        self.label = label or ""
        self._only = None if only is None else tuple(only)
        self._connect_s = connect_s
        self._max_chars = max_chars
        self._own: Connection | None = None

    async def connect(self, ctx: Context) -> tuple[McpTool, ...]:
        """The server's tools, in its order. See `agentrl.tool.Toolset`.

        Raises ServerLost when it cannot be had, UserError when `only` names a tool it lacks.
        """
        connection = self._connection()
        name, listed = await connection.tools(ctx.remaining_s(self._connect_s))
        self.label = self.label or _identifier(name) or "mcp"
        known = [tool.name for tool in listed]
        for wanted in self._only or ():
            if wanted not in known:
                raise UserError(
                    f"the MCP server {self._target.shown} has no tool {wanted!r}"
                    f"{did_you_mean(wanted, known)}"
                )
        return tuple(
            McpTool(self, told, self._max_chars)
            for told in listed
            if self._only is None or told.name in self._only
        )

    async def call(self, told: ServerTool, arguments: Mapping[str, JsonValue]) -> ToolResult:
        """One call; a server lost over a call that is safe to repeat is asked again, once."""
        try:
            return await self._asked(told, arguments)
        except ServerLost:
            if self.per_episode or not _repeatable(told):
                raise
        return await self._asked(told, arguments)

    async def _asked(self, told: ServerTool, arguments: Mapping[str, JsonValue]) -> ToolResult:
        connection = self._connection()
        await connection.tools(self._connect_s)
        return as_result(await connection.call(told.name, arguments), self._max_chars)

    async def close(self) -> None:
        """End the episode's own server; a shared one lives on. Idempotent."""
        own, self._own = self._own, None
        if own is not None:
            await own.close()

    def _connection(self) -> Connection:
        if not self.per_episode:
            return shared(self._target, self._connect_s)
        if self._own is None:
            self._own = Connection(self._target, self._connect_s)
        return self._own


@dataclass(frozen=True, slots=True, eq=False)
class McpTool:
    """One tool of a server."""

    uses_sandbox: ClassVar[bool] = False
    server: McpServer
    told: ServerTool
    """The server's description of it."""
    max_chars: int
    alias: str | None = None
    """Its name here, when the server's own was taken."""

    @property
    def name(self) -> str:
        """The server's name for it, unless that was taken."""
        return self.alias or self.told.name

    @property
    def description(self) -> str:
        """The server's words."""
        return self.told.description or self.told.title or f"The tool {self.told.name}."

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """The server's JSON Schema, passed through."""
        return cast(Mapping[str, JsonValue], self.told.input_schema)

    @property
    def parallel(self) -> bool:
        """Side by side only what the server says changes nothing."""
        return bool(self.told.annotations and self.told.annotations.read_only_hint)

    def renamed(self, name: str) -> McpTool:
        """The same tool under another name."""
        return McpTool(self.server, self.told, self.max_chars, name)

    async def open(self, ctx: Context) -> None:
        """Connected already."""

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Ask the server. Raises ToolError when it refuses, ServerLost when it dies."""
        return await self.server.call(self.told, arguments)

    async def close(self) -> None:
        """The toolset is closed by whoever connected it."""

    async def fork(self, n: int) -> list[McpTool]:
        """Itself where all episodes share the server. Raises CannotFork for one of its own."""
        if self.server.per_episode:
            raise CannotFork(f"the MCP server of {self.name!r} cannot be copied with its state")
        return [self] * n


def _repeatable(told: ServerTool) -> bool:
    hints = told.annotations
    return bool(hints and (hints.read_only_hint or hints.idempotent_hint))


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


__all__ = ["McpServer", "McpTool"]
