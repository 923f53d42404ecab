"""Who may come in: loopback unless told otherwise, beyond it only with a token or an explicit word."""

from __future__ import annotations

import hmac
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentrl.errors import UserError
from agentrl.serve.running import is_loopback, port_of

HERE = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a server on loopback may be addressed: keeps web pages from rebinding a name
of theirs to this machine."""


@dataclass(frozen=True, slots=True)
class Door:
    """How a server may be reached."""

    host: str
    token: str | None
    """Demanded as `Authorization: Bearer`; None lets everyone in who can connect."""

    @property
    def local(self) -> bool:
        """Only this machine can connect."""
        return is_loopback(self.host)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names under which the server may be addressed."""
        return HERE if self.local else ("*",)

    def lines(self, what: str, listening: socket.socket, path: str = "") -> list[str]:
        """What a server says of itself as it starts."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        address = f"http://{name}:{port_of(listening)}{path}"
        lines = [f"{what} at {address}"]
        if not self.local:
            guard = "WITH THE TOKEN" if self.token else "WITHOUT ANY TOKEN"
            lines.append(f"WARNING: EVERYONE WHO REACHES {address} {guard} CAN USE THESE TOOLS")
        return lines


def door(host: str, token_env: str, *, allow_no_token: bool) -> Door:
    """The door of a server that listens on `host`, its token read from the environment.

    Raises UserError for one that would be open to all without anybody having said so.
    """
    token = os.environ.get(token_env) or None
    if not is_loopback(host) and token is None and not allow_no_token:
        raise UserError(
            f"whoever reaches {host} could use these tools on this machine: set ${token_env} to a "
            "secret that clients must know, or say --allow-no-token if the network is closed"
        )
    return Door(host, token)


class Bearer:
    """Lets in who shows the token; compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401."""
        if scope["type"] == "http":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._wanted):
                refused = reply(
                    {"error": "this server wants its token as `Authorization: Bearer`"}, 401
                )
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


def reply(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in plain ASCII: lone surrogates are legal in its escapes, in UTF-8 they are not."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


__all__ = ["Bearer", "Door", "door", "reply"]
