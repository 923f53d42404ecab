"""Keeping the start and the end of an output stream of any length."""

from __future__ import annotations


class Capture:
    """The first and last half of `limit` bytes; what lies between is counted, never silent."""

    def __init__(self, limit: int) -> None:
        self._first_bytes = limit - limit // 2
        self._last_bytes = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._total += len(data)
        room = self._first_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room else data
        if len(self._tail) > 2 * self._last_bytes + 4096:
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(len(self._tail) - self._last_bytes, 0)]

    @property
    def dropped(self) -> int:
        """Bytes not kept so far."""
        return max(self._total - self._first_bytes - self._last_bytes, 0)

    def text(self) -> str:
        """What was kept, undecodable bytes replaced, with a line where bytes are missing."""
        self._trim()
        dropped = self.dropped
        if not dropped:
            return (self._head + self._tail).decode("utf-8", "replace")
        head, tail = (part.decode("utf-8", "replace") for part in (self._head, self._tail))
        return f"{head}\n... [{dropped} bytes left out] ...\n{tail}"
