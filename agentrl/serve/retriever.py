"""`agentrl serve retriever`: one search index for many rollout workers, in Search-R1's words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from agentrl.config import Plugin
from agentrl.errors import SetupError, UserError
from agentrl.plugins import build
from agentrl.retrieval import Retriever
from agentrl.serve.running import port_of, server_over
from agentrl.serve.sandbox_server import listen

TOKEN_ENV = "AGENTRL_RETRIEVER_TOKEN"


def serve(
    node: Plugin,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    topk: int = 3,
    token_env: str = TOKEN_ENV,
    allow_no_token: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a retriever until SIGINT or SIGTERM; running requests get a few seconds to end.

    Args:
        node: names the retriever and its options.
        host: address to listen on; anything but loopback opens the index to others.
        port: 0 takes a free one.
        topk: hits per query for requests that do not say.
        token_env: environment variable with the token that clients must send as `Authorization:
            Bearer`; unset, none is asked for.
        allow_no_token: serve beyond loopback without a token (Search-R1's clients send none).
        announce: hears where the server listens.

    Raises UserError for an address that cannot be listened on or would be open to all and for a bad
    corpus, SetupError when packages are missing.
    """
    if topk < 1:
        raise UserError(f"topk must be at least 1, not {topk}")
    try:
        from agentrl.serve.door import door
    except ImportError as error:
        raise _missing(error) from error
    way_in = door(host, token_env, allow_no_token=allow_no_token)
    with listen(host, port) as listening:
        announce(f"opening {node.name}")
        retriever = build("retriever", node)
        server = server_of(retriever, topk=topk, token=way_in.token, hosts=way_in.hosts)
        name = f"[{host}]" if ":" in host else host
        announce(f"retriever at http://{name}:{port_of(listening)}/retrieve")
        asyncio.run(_serve(server, listening, retriever))


async def _serve(server: Any, listening: socket.socket, retriever: Retriever) -> None:
    try:
        await server.serve(sockets=[listening])
    finally:
        await retriever.close()


def server_of(
    retriever: Retriever,
    *,
    topk: int = 3,
    token: str | None = None,
    hosts: tuple[str, ...] = ("*",),
) -> Any:
    """A `uvicorn.Server` over an open retriever. Raises SetupError when its packages are missing."""
    try:
        from agentrl.serve.retriever_app import RetrieverRules, retriever_app
    except ImportError as error:
        raise _missing(error) from error
    return server_over(
        retriever_app(retriever, RetrieverRules(topk=topk, token=token, hosts=hosts))
    )


def _missing(error: ImportError) -> SetupError:
    return SetupError(f"serving needs {error.name}: pip install 'agentrl-framework[serve]'")


__all__ = ["TOKEN_ENV", "serve", "server_of"]
