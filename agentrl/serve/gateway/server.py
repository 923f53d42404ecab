"""The gateway's sockets: a server that runs beside other work, or until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from agentrl.errors import SetupError, UserError
from agentrl.serve.running import is_loopback
from agentrl.serve.sandbox_server import listen

if TYPE_CHECKING:
    from starlette.applications import Starlette

GRACE_S = 10
"""What running requests get to end."""
MAX_REQUESTS = 2048
LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")


def need_packages() -> None:
    """Raise SetupError where the server's packages are missing."""
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise SetupError(
            f"the gateway needs {error.name}: pip install 'agentrl-framework[serve]'"
        ) from error
    del starlette, uvicorn


def token_for(host: str, token_env: str, *, allow_no_token: bool) -> str | None:
    """The token that clients must show; None when none is asked for.

    Raises UserError for a server that would be open to a whole network.
    """
    token = os.environ.get(token_env) or None
    if token is None and not is_loopback(host) and not allow_no_token:
        raise UserError(
            f"whoever reaches {host} could use this model and its tools: set ${token_env} to a "
            "secret that clients send as API key, or say --allow-no-token if the network is closed"
        )
    return token


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Names by which clients may address a server that listens on `host`."""
    return LOCAL if is_loopback(host) else ("*",)


def url_of(host: str, port: int) -> str:
    """The root of a server, without a path."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@asynccontextmanager
async def listening(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve beside what the block does; gives the root URL. Signals stay with the process.

    Requests that still run when the block ends get `GRACE_S`. Raises UserError for an address that
    cannot be listened on.
    """
    with listen(host, port) as socket:
        server = _server(app, GRACE_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[socket]))
            try:
                yield url_of(host, socket.getsockname()[1])
            finally:
                server.should_exit = True


async def serve_until_signal(app: Starlette, socket: Any) -> None:
    """Serve on an open socket until SIGINT or SIGTERM; a second one ends running requests at once."""
    server, loop = _server(app, GRACE_S), asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await server.serve(sockets=[socket])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _server(app: Starlette, grace_s: int) -> Any:
    """A server that leaves the process's signal handlers alone."""
    import uvicorn

    class Quiet(uvicorn.Server):
        """Whose signals are somebody else's."""

        @contextmanager
        def capture_signals(self) -> Generator[None]:
            """Capture none."""
            yield

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        limit_concurrency=MAX_REQUESTS,
        timeout_graceful_shutdown=grace_s,
        timeout_keep_alive=30,
    )
    return Quiet(config)


__all__ = [
    "allowed_hosts",
    "listening",
    "need_packages",
    "serve_until_signal",
    "token_for",
    "url_of",
]
