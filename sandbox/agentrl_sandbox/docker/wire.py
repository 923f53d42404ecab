"""Frames between the trusted side and the relay inside a container.

A frame is four bytes of length and as many of JSON. On standard input the first frame is the
`Order` to begin, then `Request`s; on standard output a `Ready` or a `Broken`, then one `Answer`
per request, in any order. Only the relay holds these two streams: model code has pipes of its own,
whose bytes arrive as fields of an answer and can never be taken for a frame.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Literal, TypeAlias, TypedDict

_LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 256 << 20
"""More than any source code or result; a longer frame means that the stream is broken."""


class Limits(TypedDict):
    """The fields of `SandboxLimits`."""

    memory_mb: int
    disk_mb: int
    output_bytes: int
    open_files: int
    cpu_s: float | None
    processes: int


class Order(TypedDict):
    """What the relay is to offer."""

    limits: Limits
    max_sessions: int
    min_isolation: str


class Ready(TypedDict):
    """The relay is warm."""

    kind: Literal["ready"]
    isolation: str


class Broken(TypedDict):
    """The relay cannot work in this container."""

    kind: Literal["broken"]
    why: str


Op: TypeAlias = Literal["acquire", "run", "interrupt", "fork", "reset", "close", "once", "cancel"]
"""`once`: run code in a fresh interpreter and throw that away; `fork`: copies get the session
numbers from `target` on."""


class Request(TypedDict):
    """One thing to do; `code` and `timeout_s` are for `run` and `once`."""

    id: int
    op: Op
    session: int
    code: str
    timeout_s: float
    target: int
    """The request to `cancel`, or the first copy's number."""
    count: int
    """Copies to `fork`."""


class Result(TypedDict):
    """The fields of an `ExecResult`, as the relay's own side of the session found them."""

    status: str
    stdout: str
    stderr: str
    value: str | None
    error: str | None
    exit_code: int | None
    signal: int | None
    wall_s: float
    cpu_s: float
    queue_s: float
    peak_rss_mb: float
    stdout_dropped: int
    stderr_dropped: int
    isolation: str
    state_lost: bool


class Answer(TypedDict):
    """What became of a request."""

    kind: Literal["answer"]
    id: int
    failed: str | None
    """Why the box, not the code, failed; None: it is done."""
    result: Result | None
    """Of `run` and `once`."""


Message: TypeAlias = Order | Ready | Broken | Request | Answer


def frame(message: Message) -> bytes:
    """One message, lone surrogates included (JSON escapes them)."""
    body = json.dumps(message).encode("ascii")
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Takes the bytes of a stream as they come and gives back whole messages."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes. Raises ValueError when the stream is no longer framed."""
        self._pending += data
        while len(self._pending) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._pending) < end:
                return
            body = bytes(self._pending[_LENGTH.size : end])
            del self._pending[:end]
            yield body
