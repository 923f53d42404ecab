"""Where an MCP server is and how it is reached."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from agentrl.errors import SetupError, UserError

if TYPE_CHECKING:
    from mcp import Client

GUARD = Path(__file__).parent.with_name("guard.py")


@dataclass(frozen=True, slots=True)
class Target:
    """A command to run or an address to call; equal targets may share a connection."""

    command: tuple[str, ...] = ()
    url: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    """Set for the command, beside PATH, HOME and the like."""
    pass_env: tuple[str, ...] = ()
    """Variables of this process handed on to the command: the place for secrets."""
    cwd: str | None = None
    token_env: str | None = None
    """Variable with the token sent to the address as `Authorization: Bearer`."""

    @classmethod
    def checked(cls, target: Target) -> Target:
        """The target itself. Raises UserError on one that cannot be meant."""
        if bool(target.command) == bool(target.url):
            raise UserError("mcp needs either a command, [program, argument, ...], or a url")
        if target.url is not None and not target.url.startswith(("http://", "https://")):
            raise UserError(f"mcp: the url {target.url!r} must begin with http:// or https://")
        if target.command and shutil.which(target.command[0]) is None:
            raise UserError(
                f"mcp: there is no program {target.command[0]!r} to start a server with"
            )
        missing = [name for name in target.pass_env if name not in os.environ]
        if target.token_env and target.token_env not in os.environ:
            missing.append(target.token_env)
        if missing:
            raise UserError(f"mcp: the environment variable {missing[0]} is not set; export it")
        return target

    @property
    def shown(self) -> str:
        """For messages: the address, or the command's words."""
        return self.url or " ".join(self.command)

    @asynccontextmanager
    async def client(self, errors: IO[str]) -> AsyncGenerator[Client]:
        """A connected client of the mcp package; `errors` gets what the command writes to stderr.

        Raises SetupError without the package, and whatever the package raises.
        """
        try:
            from mcp import Client
        except ImportError as error:
            raise SetupError(
                "MCP tools need the mcp package: pip install 'agentrl-framework[mcp]'"
            ) from error
        async with AsyncExitStack() as stack:
            transport = self._over_http(stack) if self.url else self._over_stdio(errors)
            yield await stack.enter_async_context(Client(await transport, cache=None))  # pyright: ignore[reportArgumentType]

    async def _over_stdio(self, errors: IO[str]) -> object:
        from mcp.client.stdio import StdioServerParameters, stdio_client

        passed = {name: os.environ[name] for name in self.pass_env}
        guard = ["-I", "-S", str(GUARD), str(os.getpid())]
        parameters = StdioServerParameters(
            command=sys.executable,
            args=[*guard, *self.command],
            env={**passed, **dict(self.env)},
            cwd=self.cwd,
        )
        return stdio_client(parameters, errlog=errors)  # pyright: ignore[reportArgumentType]

    async def _over_http(self, stack: AsyncExitStack) -> object:
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        headers: dict[str, str] = {}
        if self.token_env:
            headers["Authorization"] = f"Bearer {os.environ[self.token_env]}"
        client = await stack.enter_async_context(create_mcp_http_client(headers=headers))
        return streamable_http_client(str(self.url), http_client=client)


__all__ = ["Target"]
