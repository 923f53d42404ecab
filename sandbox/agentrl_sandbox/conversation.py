"""One run, watched from outside: drains both outputs and waits for whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Literal

from agentrl_sandbox.capture import Capture
from agentrl_sandbox.child import Child
from agentrl_sandbox.inside import wire

Ending = Literal["done", "exited", "broken", "flood", "disk"]
"""`done`: the child says so; `exited`: it was reaped; `broken`: it wrote nonsense or hung up on the
control channel; `flood`: output beyond all bounds; `disk`: work folder beyond its quota."""

FLOOD_BYTES = 64 << 20
_CHUNK = 1 << 16
_LEFT_OVER = 1 << 20
_WORD_S = 0.1
_BRIEF_S = 0.001
"""What a shorter run writes waits in its pipes, so that it costs no watching."""


class Conversation:
    """Reads a child's three channels for the length of one run; one task waits for its end."""

    def __init__(self, child: Child, *, nonce: bytes, keep_bytes: int) -> None:
        self.stdout, self.stderr = Capture(keep_bytes), Capture(keep_bytes)
        self.reply: wire.Reply | None = None
        self._child = child
        self.nonce = nonce
        self._reply_limit = keep_bytes + 4 * wire.MAX_ERROR_BYTES
        self._inbox = b""
        self.ending: Ending | None = None
        """How the run ended; None: it goes on."""
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._watching: tuple[int, ...] = ()

    def __enter__(self) -> Conversation:
        child = self._child
        self._loop.add_reader(child.control.fileno(), self._hear)
        self._watch_outputs = self._loop.call_later(_BRIEF_S, self._drain_from_now_on)
        child.exited.add_done_callback(self._reaped)
        return self

    def __exit__(self, *_: object) -> None:
        child = self._child
        self._watch_outputs.cancel()
        for source in (child.control.fileno(), *self._watching):
            self._loop.remove_reader(source)
        child.exited.remove_done_callback(self._reaped)

    async def wait(self, seconds: float) -> None:
        """Until the run has ended, but no longer than that."""
        if self.ending is not None:
            return
        self._waiter = self._loop.create_future()
        alarm = self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            alarm.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, how: Ending) -> None:
        """Settle how the run ended; the first to say so is right."""
        if self.ending is None:
            self.ending = how
            self._wake()

    def _reaped(self, _: object) -> None:
        self.end("exited")

    def _drain_from_now_on(self) -> None:
        child = self._child
        self._watching = (child.out, child.err)
        self._loop.add_reader(child.out, self._drain, child.out, self.stdout)
        self._loop.add_reader(child.err, self._drain, child.err, self.stderr)

    def _drain(self, fd: int, capture: Capture) -> None:
        data = _read(lambda: os.read(fd, _CHUNK))
        if data == b"":
            self._loop.remove_reader(fd)
        elif data is not None:
            capture.add(data)
            if capture.dropped > FLOOD_BYTES:
                self.end("flood")

    def _hear(self) -> None:
        data = _read(lambda: self._child.control.recv(_CHUNK))
        if data is None:
            return
        if data == b"":
            # A death shows here first: the reaper's word on how follows within moments.
            self._loop.remove_reader(self._child.control.fileno())
            self._loop.call_later(_WORD_S, self._hung_up)
            return
        self._inbox += data
        try:
            self.reply = wire.parse_reply(self._inbox, self._reply_limit)
        except ValueError:
            self.end("broken")
            return
        if self.reply is not None:
            self.end("done" if self.reply.nonce == self.nonce else "broken")

    def _hung_up(self) -> None:
        self.end("exited" if self._child.has_ended() else "broken")

    def finish(self) -> None:
        """Take what is still in the pipes: all that was written before the end, bounded."""
        for fd, capture in ((self._child.out, self.stdout), (self._child.err, self.stderr)):
            left = _LEFT_OVER
            while left > 0 and (data := _read(lambda fd=fd: os.read(fd, _CHUNK))):
                capture.add(data)
                left -= len(data)


def _read(read: Callable[[], bytes]) -> bytes | None:
    """Bytes, empty at the end of the stream, None when there is nothing yet."""
    try:
        return read()
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def send_now(control: socket.socket, data: bytes) -> bytes:
    """Send what fits at once; the rest comes back for `send_all`."""
    try:
        return data[control.send(data) :]
    except (BlockingIOError, InterruptedError):
        return data
    except OSError:
        return b""


async def send_all(control: socket.socket, data: bytes) -> None:
    """Send on a non-blocking socket; a child that hung up shows elsewhere."""
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(control, data)
