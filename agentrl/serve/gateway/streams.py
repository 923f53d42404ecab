"""Work that ends when its client hangs up, whole answers and streams alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentrl.serve.gateway.answers import error_json, event
from agentrl.serve.gateway.wire import ApiError

T = TypeVar("T")
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
Sorted = Callable[[Exception], ApiError]
"""A failure as the client is told it."""


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
        except Exception as error:  # noqa: BLE001  handed on below, without the group around it
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
    """A stream whose first event is there already; what fails later becomes its last event."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], tell: Sorted) -> None:
        super().__init__()
        self._first, self._rest, self._tell = first, rest, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send event after event until the last, or until the client hangs up."""
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        try:
            await _until_gone(receive, self._send(send))
        except HungUp:
            return

    async def _send(self, send: Send) -> None:
        async def body(piece: bytes, *, more: bool = True) -> None:
            message: Mapping[str, object] = {
                "type": "http.response.body", "body": piece, "more_body": more
            }  # fmt: skip
            await send(dict(message))

        await body(self._first)
        async with aclosing(self._rest) as rest:
            try:
                async for piece in rest:
                    await body(piece)
            except Exception as error:  # noqa: BLE001  the status was sent: only an event can tell
                await body(event(error_json(self._tell(error))))
        await body(b"", more=False)


__all__ = ["EventStream", "HungUp", "while_connected"]
