"""A pipe from a child process, read as it fills: whole lines are handed on, the end is kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import IO

_CHUNK = 1 << 16
_KEPT_BYTES = 4000


class Lines:
    """Reads `pipe` on the running loop until its end, then calls `over` once."""

    def __init__(
        self, pipe: IO[bytes], line: Callable[[bytes], None], over: Callable[[], None]
    ) -> None:
        self._pipe = pipe
        self._line = line
        self._over = over
        self._pending = b""
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._kept = (self._kept + data)[-_KEPT_BYTES:]
        *lines, rest = (self._pending + data).split(b"\n")
        self._pending = rest[-_KEPT_BYTES:]
        for line in lines:
            self._line(line)

    def tail(self) -> str:
        """The last that was read."""
        return self._kept.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
            self._over()
