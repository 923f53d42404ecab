"""The zygote's end of its channel to the trusted side: one JSON object per line.

`fork` comes with the three descriptors of a session and is answered by `forked` (with a pidfd on
Linux) or `refused`; `split` comes with a channel for another zygote; `copy` comes with three
descriptors for each copy and is answered by `armed` or `refused`, later `born` and `fit` report each
copy, and `call_off` ends the wait for them; `signal` is for machines without pidfds; `exit` reports
what `wait4` said.
"""

from __future__ import annotations

import json
import socket
from typing import TypeAlias

from agentrl_sandbox.inside.news import News

Order: TypeAlias = dict[str, int | str]
_CHUNK = 65_536
_DESCRIPTORS = 96


class Channel:
    """Takes orders with their descriptors, sends news."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._pending = b""
        self._descriptors: list[int] = []

    def receive(self) -> list[Order] | None:
        """The orders that are complete by now; None when the trusted side has hung up."""
        data, descriptors, _, _ = socket.recv_fds(self.socket, _CHUNK, _DESCRIPTORS)
        self._descriptors += descriptors
        if not data:
            return None
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def take(self, count: int) -> list[int]:
        """The next descriptors: they arrive in the order of the lines that they belong to."""
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    def send(self, message: News, handles: list[int] | None = None) -> None:
        """One line, and descriptors with it. Raises OSError."""
        line = json.dumps(message).encode() + b"\n"
        if handles:
            socket.send_fds(self.socket, [line], handles)
        else:
            self.socket.sendall(line)
