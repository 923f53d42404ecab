"""One run, heard until the kernel is idle and has replied: two pipes and two channels.

Whatever a message says is a claim of the process that ran the code, its types included: nothing of
it is believed to have any shape.
"""

from __future__ import annotations

import asyncio
import os
from queue import Empty
from typing import Any, cast

from agentrl_sandbox.capture import Capture
from agentrl_sandbox.conversation import FLOOD_BYTES, Ending
from agentrl_sandbox.inside import wire
from agentrl_sandbox.jupyter.kernel import Kernel

_SLICE_S = 60.0
_REPLY_S = 2.0
"""After it is idle; code that breaks the kernel's own echo or traceback gets no reply."""
_CHUNK = 1 << 16
_LEFT_OVER = 1 << 20
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""What jupyter-client raises on bytes that are no message of its own."""


class Talk:
    """The outputs of one run and its reply; a context in which the pipes are read."""

    def __init__(self, kernel: Kernel, keep_bytes: int) -> None:
        self.stdout, self.stderr = Capture(keep_bytes), Capture(keep_bytes)
        self._pipes = ((kernel.out, self.stdout), (kernel.err, self.stderr))
        self._client = kernel.client
        self._keep_bytes = keep_bytes
        self._value: str | None = None
        self._error: str | None = None
        self._status = ""
        self._message = ""
        self._loop = asyncio.get_running_loop()
        self.flooded: asyncio.Future[None] = self._loop.create_future()
        """Resolves when there was more output than anybody can mean."""

    def __enter__(self) -> Talk:
        for fd, capture in self._pipes:
            self._loop.add_reader(fd, self._drain, fd, capture)
        return self

    def __exit__(self, *_: object) -> None:
        for fd, _capture in self._pipes:
            self._loop.remove_reader(fd)

    def _drain(self, fd: int, capture: Capture) -> None:
        data = _read(fd)
        if data == b"":
            self._loop.remove_reader(fd)
        elif data is not None:
            capture.add(data)
            if capture.dropped > FLOOD_BYTES and not self.flooded.done():
                self.flooded.set_result(None)

    def finish(self) -> None:
        """Take what is still in the pipes: all that was written before the end, bounded."""
        for fd, capture in self._pipes:
            left = _LEFT_OVER
            while left > 0 and (data := _read(fd)):
                capture.add(data)
                left -= len(data)

    async def run(self, code: str) -> Ending:
        """Send the code and hear it out."""
        try:
            self._message = self._client.execute(
                code, allow_stdin=False, stop_on_error=False, store_history=False
            )
            while not self._take(await self._next(self._client.get_iopub_msg)):
                continue
            async with asyncio.timeout(_REPLY_S):
                self._conclude(await self._next(self._client.get_shell_msg))
        except TimeoutError:
            self._error = self._error or "the kernel gave no reply"
        except _UNREADABLE:
            return "broken"
        return "done"

    async def _next(self, get: Any) -> dict[str, object]:
        """The content of the next message that answers ours, its type under `msg_type`."""
        while True:
            try:
                message = await get(timeout=_SLICE_S)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") == self._message:
                return {**message["content"], "msg_type": message["header"]["msg_type"]}

    def _take(self, content: dict[str, object]) -> bool:
        """Note one output; whether the kernel is idle."""
        kind = content["msg_type"]
        if kind == "execute_result":
            self._value = _plain(content)
        elif kind == "display_data":
            self.stdout.add(_bytes(_plain(content)) + b"\n")
        elif kind == "error":
            self._error = _told(content)
            self._show(content.get("traceback"))
        return kind == "status" and content.get("execution_state") == "idle"

    def _show(self, lines: object) -> None:
        self.finish()
        if isinstance(lines, list):
            for line in cast("list[object]", lines):
                self.stderr.add(_bytes(line) + b"\n")

    def _conclude(self, content: dict[str, object]) -> None:
        self._status = _text(content.get("status"))
        if self._status == "error" and self._error is None:
            self._error = _told(content)

    def reply(self) -> wire.Reply:
        """What the kernel claims, cut to size."""
        kind = wire.OK if self._status == "ok" else wire.ERROR
        error = None if self._error is None else self._error[: wire.MAX_ERROR_BYTES]
        return wire.Reply(wire.NO_NONCE, kind, _cut(self._value, self._keep_bytes), error)


def _read(fd: int) -> bytes | None:
    """Bytes, empty at the end of the stream, None when there is nothing yet."""
    try:
        return os.read(fd, _CHUNK)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def _told(content: dict[str, object]) -> str:
    name, text = _text(content.get("ename")), _text(content.get("evalue"))
    return f"{name}: {text}" if text else name


def _plain(content: dict[str, object]) -> str:
    data = content.get("data")
    if not isinstance(data, dict):
        return ""
    return _text(cast("dict[str, object]", data).get("text/plain"))


def _cut(value: str | None, keep_bytes: int) -> str | None:
    data = _bytes(value)
    beyond = len(data) - keep_bytes
    if value is None or beyond <= 0:
        return value
    return data[:keep_bytes].decode("utf-8", "replace") + f"... [{beyond} more bytes]"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _bytes(value: object) -> bytes:
    # Lone surrogates as `local` shows them.
    return _text(value).encode("utf-8", "backslashreplace")
