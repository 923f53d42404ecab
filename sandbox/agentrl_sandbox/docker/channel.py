"""The attach stream of a container: the relay's frames and its last words, told apart.

Docker sends the two outputs of a container as blocks with an eight-byte header: the stream's
number, three zeros, and the length (Engine API, "Attach to a container").
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from agentrl_sandbox.docker import wire

_HEADER = struct.Struct("!B3xI")
_STDOUT = 1
_WORDS_BYTES = 4000


class Channel(asyncio.Protocol):
    """Calls `heard` with each message's body and `lost` once, at the end of the stream."""

    def __init__(self, heard: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._pending = bytearray()
        self._frames = wire.Frames()
        self._words = b""
        self._transport: asyncio.Transport | None = None

    @property
    def last_words(self) -> str:
        """The end of what came on stderr."""
        return self._words.decode("utf-8", "replace").strip()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._pending += data
        try:
            while len(self._pending) >= _HEADER.size:
                stream, length = _HEADER.unpack_from(self._pending)
                end = _HEADER.size + length
                if len(self._pending) < end:
                    return
                block = bytes(self._pending[_HEADER.size : end])
                del self._pending[:end]
                self._take(stream, block)
        except ValueError:
            self.close()

    def _take(self, stream: int, block: bytes) -> None:
        if stream == _STDOUT:
            for body in self._frames.feed(block):
                self._heard(body)
        else:
            self._words = (self._words + block)[-_WORDS_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._lost()

    def send(self, data: bytes) -> None:
        """Write, buffering what does not fit; nothing when the stream has ended."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Hang up: the relay's input ends, and with it the container."""
        if self._transport is not None:
            self._transport.abort()
