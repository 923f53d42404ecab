"""Running an application until it is told to stop, and where it listens."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from agentrl.errors import SetupError

GRACE_S = 5
_MAX_REQUESTS = 2048


def server_over(app: Any) -> Any:
    """A `uvicorn.Server` for an application; running requests get some seconds to end.

    Raises SetupError when the package is missing.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise SetupError(
            f"serving needs {error.name}: pip install 'agentrl-framework[serve]'"
        ) from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        limit_concurrency=_MAX_REQUESTS,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
    )
    return uvicorn.Server(config)


def port_of(listening: socket.socket) -> int:
    """The port a socket listens on."""
    return int(listening.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


__all__ = ["is_loopback", "port_of", "server_over"]
