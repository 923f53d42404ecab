"""`agentrl sandbox serve`: this machine's sandbox over HTTP.

Users of SandboxFusion point their `SANDBOX_FUSION_ENDPOINT` at it; agentrl's own `sandbox=remote` gets
real sessions. What listens here runs code for whoever can connect: loopback unless told otherwise,
and beyond it only with a token or on the explicit word that none is wanted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from agentrl.config import Plugin
from agentrl.errors import SetupError, UserError
from agentrl.plugins import build
from agentrl.sandbox import SandboxPool
from agentrl.serve.running import is_loopback

TOKEN_ENV = "AGENTRL_SANDBOX_TOKEN"
_GRACE_S = 10
_MAX_REQUESTS = 2048
_log = logging.getLogger("agentrl.serve")


def serve(
    node: Plugin,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token_env: str = TOKEN_ENV,
    allow_no_token: bool = False,
    max_body_mb: int = 32,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a sandbox pool until SIGINT or SIGTERM; running requests get ten seconds to end.

    Args:
        node: names the pool and its options, as `RunConfig.sandbox` does.
        host: address to listen on; anything but loopback opens this machine to others.
        port: 0 takes a free one.
        token_env: environment variable with the token that clients must send as `Authorization:
            Bearer`; unset, none is asked for.
        allow_no_token: serve beyond loopback without a token (SandboxFusion's clients send none).
        max_body_mb: largest request.
        announce: hears where the server listens and how well code is isolated.

    Raises UserError for an address that cannot be listened on or would be open to all, SetupError
    when the server's packages are missing, SandboxUnavailable when the pool cannot open here.
    """
    token = os.environ.get(token_env) or None
    local = is_loopback(host)
    if not local and token is None and not allow_no_token:
        raise UserError(
            f"whoever reaches {host} could run code on this machine: set ${token_env} to a secret "
            "that clients must know, or say --allow-no-token if the network is closed"
        )
    if max_body_mb < 1:
        raise UserError(f"max_body_mb must be at least 1, not {max_body_mb}")
    listening = listen(host, port)
    with listening:
        said = _lines(listening, host, local=local, token=token is not None)
        asyncio.run(
            _serve(build("sandbox", node), listening, local, token, max_body_mb, said, announce)
        )


async def _serve(
    pool: SandboxPool,
    listening: socket.socket,
    local: bool,
    token: str | None,
    max_body_mb: int,
    said: list[str],
    announce: Callable[[str], None],
) -> None:
    hosts = ("127.0.0.1", "localhost") if local else ("*",)
    await pool.open()
    try:
        server = server_of(pool, token=token, max_body_mb=max_body_mb, hosts=hosts)
        for line in (*said, f"isolation: {pool.isolation}"):
            announce(line)
        await server.serve(sockets=[listening])
    finally:
        await pool.close()


def server_of(
    pool: SandboxPool,
    *,
    token: str | None = None,
    max_body_mb: int = 32,
    idle_s: float = 600.0,
    hosts: tuple[str, ...] = ("*",),
) -> Any:
    """A `uvicorn.Server` over an open pool. Raises SetupError when its packages are missing."""
    try:
        import uvicorn

        from agentrl.serve.sandbox_app import Rules, sandbox_app
    except ImportError as error:
        raise SetupError(
            f"serving needs {error.name}: pip install 'agentrl-framework[serve]'"
        ) from error
    rules = Rules(token=token, max_body_bytes=max_body_mb << 20, idle_s=idle_s, hosts=hosts)
    config = uvicorn.Config(
        sandbox_app(pool, rules),
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        limit_concurrency=_MAX_REQUESTS,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=30,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `port` 0 takes a free one. Raises UserError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # Named as TCP, or asyncio would not know to send small answers at once.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host}:{port} ({error}); choose another --host or --port"
        ) from error
    return listening


def _lines(listening: socket.socket, host: str, *, local: bool, token: bool) -> list[str]:
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    lines = [f"sandbox server at {address}"]
    if not local:
        guard = "WITH THE TOKEN" if token else "WITHOUT ANY TOKEN"
        lines.append(
            f"WARNING: EVERYONE WHO REACHES {address} {guard} CAN RUN CODE ON THIS MACHINE"
        )
        _log.warning("%s", lines[-1])
    return lines


__all__ = ["TOKEN_ENV", "listen", "serve", "server_of"]
