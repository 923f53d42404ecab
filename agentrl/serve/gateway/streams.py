"""Work that ends when its client hangs up, whole answers and streams alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentrl.serve.gateway.answers import Push

T = TypeVar("T")
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class HungUp(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(request: Request, work: Coroutine[None, None, T]) -> T:
    """Await `work`, cancelled when the client hangs up: then raises HungUp."""
    return await _until_gone(request.receive, work)


async def _until_gone(receive: Receive, work: Coroutine[None, None, T]) -> T:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        worker.cancel()

    async def outcome() -> T | Exception:
        try:
            return await work
        except Exception as error:  # noqa: BLE001  raised below, without the group around it
            return error

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(watch())
        worker = group.create_task(outcome())
        worker.add_done_callback(lambda _: watcher.cancel())
    if worker.cancelled():
        raise HungUp
    found = worker.result()
    if isinstance(found, Exception):
        raise found
    return found


class EventStream(Response):
    """A stream that `produce` pushes events into.

    What fails before the first event is answered as a whole; later, as the last event.
    """

    def __init__(
        self,
        produce: Callable[[Push], Coroutine[None, None, None]],
        failed: Callable[[Exception], Response],
    ) -> None:
        super().__init__()
        self._produce, self._failed, self._started = produce, failed, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send event after event until the last, or until the client hangs up."""

        async def push(piece: bytes) -> None:
            if not self._started:
                self._started = True
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        try:
            await _until_gone(receive, self._produce(push))
        except HungUp:
            return
        except Exception as error:  # noqa: BLE001  the border: the client is told
            whole = self._failed(error)
            if not self._started:
                await whole(scope, receive, send)
                return
            await push(b"data: " + bytes(whole.body) + b"\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


__all__ = ["EventStream", "HungUp", "while_connected"]
