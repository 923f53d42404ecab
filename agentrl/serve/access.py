"""Who may use a server: everyone on this machine, or whoever knows its token."""

from __future__ import annotations

import hmac
import ipaddress
import json
import os

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentrl.errors import UserError

_LOCAL_NAMES = ["127.0.0.1", "localhost", "::1"]


def token_for(host: str, token_env: str, *, allow_no_token: bool) -> str | None:
    """The token that clients must send, from the environment; None where none is set.

    Raises UserError for a host beyond this machine without one, unless that is explicitly allowed.
    """
    token = os.environ.get(token_env) or None
    if token is None and not allow_no_token and not is_loopback(host):
        raise UserError(
            f"everyone who reaches {host} could use this server: set ${token_env} to a secret that "
            "clients must know, or say --allow-no-token if the network is closed"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guards(token: str | None, *, local: bool) -> list[Middleware]:
    """The middleware that asks for the token and, on loopback, for a name of this machine.

    The latter keeps web pages from rebinding a name of theirs to it.
    """
    hosts = _LOCAL_NAMES if local else ["*"]
    asked = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]
    return [*asked, Middleware(Bearer, token=token)] if token is not None else asked


class Bearer:
    """Lets in who shows the token as `Authorization: Bearer`; compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401."""
        if scope["type"] == "http":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._wanted):
                told = "this server wants its token as `Authorization: Bearer`"
                refused = Response(json.dumps({"detail": told}), 401, media_type="application/json")
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


__all__ = ["Bearer", "guards", "is_loopback", "token_for"]
