"""Frames on the control socket of one session.

To the child: what to do, nonce, length, text. From it: nonce, kind, two lengths, value, error. The
nonce of a run is fresh, so bytes written blindly to every descriptor are not taken for an answer; what the
child claims is still only a claim. Nothing is unpickled or parsed beyond these fixed headers.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

NONCE_BYTES = 16
NO_NONCE = bytes(NONCE_BYTES)
READY, UNFIT, OK, ERROR = range(4)
"""`UNFIT`: the fence could not be put up; no code was or will be run."""
RUN, COPY, SETTLE = range(3)
"""Run the text as code; make as many copies as the text says; a copy's work folder is the text."""
MAX_ERROR_BYTES = 4096

_REQUEST = struct.Struct("!B16sI")
_REPLY = struct.Struct("!16sBII")
REQUEST_BYTES, REPLY_BYTES = _REQUEST.size, _REPLY.size


class Request(NamedTuple):
    """What the child is to do."""

    order: int
    nonce: bytes
    text: str


class Reply(NamedTuple):
    """What the child claims about one run."""

    nonce: bytes
    kind: int
    value: str | None
    error: str | None


def encode(text: str) -> bytes:
    """Any Python string, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


def request(nonce: bytes, text: str, order: int = RUN) -> bytes:
    """Frame that asks the child to carry out an order."""
    body = encode(text)
    return _REQUEST.pack(order, nonce, len(body)) + body


def parse_request(data: bytearray) -> Request | None:
    """The one request that `data` holds, None while it is incomplete."""
    if len(data) < REQUEST_BYTES:
        return None
    order, nonce, length = _REQUEST.unpack_from(data)
    if len(data) < REQUEST_BYTES + length:
        return None
    return Request(order, nonce, data[REQUEST_BYTES:].decode("utf-8", "surrogatepass"))


def reply(nonce: bytes, kind: int, value: bytes | None, error: bytes | None) -> bytes:
    """Frame that ends a run. A length is one more than the bytes; 0 means none."""
    lengths = (0 if part is None else len(part) + 1 for part in (value, error))
    return _REPLY.pack(nonce, kind, *lengths) + (value or b"") + (error or b"")


def parse_reply(data: bytes, limit: int) -> Reply | None:
    """The reply at the start of `data`, None while it is incomplete. Raises ValueError if absurd.

    `limit`: bytes that value and error may have together.
    """
    if len(data) < REPLY_BYTES:
        return None
    nonce, kind, first, second = _REPLY.unpack_from(data)
    value_bytes, error_bytes = max(first - 1, 0), max(second - 1, 0)
    if kind > ERROR or value_bytes + error_bytes > limit:
        raise ValueError("a malformed frame on the control channel")
    end = REPLY_BYTES + value_bytes + error_bytes
    if len(data) < end:
        return None
    value = data[REPLY_BYTES : REPLY_BYTES + value_bytes].decode("utf-8", "replace")
    error = data[REPLY_BYTES + value_bytes : end].decode("utf-8", "replace")
    return Reply(nonce, kind, value if first else None, error if second else None)
