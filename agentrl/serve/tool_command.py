"""What `agentrl serve mcp` and `agentrl serve tools` share: words, the sandbox, start and end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

import click

from agentrl.compose import compose
from agentrl.config import Plugin
from agentrl.plugins import build, build_tool
from agentrl.sandbox import SandboxPool
from agentrl.serve.sandbox_server import listen
from agentrl.serve.tool_words import read_tool_words
from agentrl.toolset import Named


@dataclass(frozen=True, slots=True)
class Command:
    """What was asked for."""

    tools: tuple[Plugin | str, ...]
    sandbox: Plugin

    @classmethod
    def of(cls, words: Sequence[str]) -> Command:
        """Raises UserError on unknown tools, options or words."""
        served = read_tool_words(words)
        found = cls(served.tools, compose(served.rest).sandbox)
        found.make()  # a wrong option is refused before anybody connects
        return found

    def make(self) -> Sequence[Named]:
        """A session's tools."""
        return [build_tool(node) for node in self.tools]

    def only(self, name: str) -> bool:
        """Whether that is the one tool named."""
        names = [node if isinstance(node, str) else node.name for node in self.tools]
        return names == [name]

    def listening(self, host: str, port: int) -> socket.socket:
        """A listening socket. Raises UserError."""
        return listen(host, port)


def run_command(
    found: Command,
    serve: Callable[[SandboxPool], Coroutine[None, None, None]],
    *,
    announce: Sequence[str] | None,
) -> None:
    """Open the sandbox, say where the server is, and serve until told to stop.

    Raises SandboxUnavailable when the pool cannot open here.
    """

    async def served() -> None:
        pool: SandboxPool = build("sandbox", found.sandbox)
        await pool.open()
        try:
            for line in (*(announce or ()), f"isolation: {pool.isolation}"):
                click.echo(line, err=announce is None)  # over stdio, standard output is the wire
            await serve(pool)
        finally:
            await pool.close()

    asyncio.run(served())


__all__ = ["Command", "run_command"]
