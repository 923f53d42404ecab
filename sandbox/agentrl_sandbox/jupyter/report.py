"""The guard's one line on how a kernel ended, read when it comes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable

from agentrl_sandbox.child import Exit

_LONGEST_BYTES = 4096


class Report:
    """Calls `told` once: with the exit, or with None when the guard was lost."""

    def __init__(self, fd: int, told: Callable[[Exit | None], None]) -> None:
        self._fd = fd
        self._told = told
        self._data = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _LONGEST_BYTES)
        except BlockingIOError:
            return
        self._data += data
        if not data or self._data.endswith(b"\n"):
            self.close()

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._told(_parsed(self._data))


def _parsed(data: bytes) -> Exit | None:
    try:
        report = json.loads(data)
        return Exit(report["status"], report["cpu_s"], report["peak"] / 1024)
    except (ValueError, KeyError, TypeError):
        return None
