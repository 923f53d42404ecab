"""The relay: the trusted side of the `local` back end, moved into a container.

It offers `acquire`, `run`, `reset` and `close` over its standard input and output and ends, and
with it the container, at the end of its input. Model code runs in session children that hold none
of the relay's descriptors, may not signal, trace or open it, and are reaped by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import asdict, replace
from typing import BinaryIO, cast

from agentrl.errors import SandboxError, SandboxUnavailable
from agentrl.sandbox import ExecResult, IsolationLevel, OneShot, SandboxLimits
from agentrl_sandbox.docker import wire
from agentrl_sandbox.inside import kernel
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.session import Session

_CHUNK = 1 << 18


def main() -> None:
    """Serve until the input ends. Called by the program in `bundle`, once the sources are there."""
    # A process of the same user could otherwise look into this one where Landlock is missing.
    with contextlib.suppress(OSError):
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    source, target = _take_streams()
    asyncio.run(_Relay(source, target).serve())


def _take_streams() -> tuple[int, BinaryIO]:
    """Our input and output under new numbers; whatever prints by mistake lands on stderr."""
    source, target = os.dup(0), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return source, target


class _Relay:
    """One pool, its sessions by number, and the requests under way."""

    def __init__(self, source: int, target: BinaryIO) -> None:
        self._source = source
        self._target = target
        self._frames = wire.Frames()
        self._sessions: dict[int, Session] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Open the pool, answer requests side by side, close everything."""
        messages = self._messages(await self._input())
        order = await anext(messages, None)
        if order is None:
            return
        pool = _pool(cast("wire.Order", order))
        try:
            await pool.open()
        except SandboxUnavailable as error:
            self._send({"kind": "broken", "why": str(error)})
            return
        self._send({"kind": "ready", "isolation": pool.isolation})
        try:
            async with asyncio.TaskGroup() as group:
                async for message in messages:
                    self._take(cast("wire.Request", message), pool, group)
                for task in self._tasks.values():
                    task.cancel()
        finally:
            await pool.close()

    async def _input(self) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_CHUNK)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._source, "rb")
        )
        return reader

    async def _messages(self, reader: asyncio.StreamReader) -> AsyncGenerator[object]:
        while data := await reader.read(_CHUNK):
            for body in self._frames.feed(data):
                yield json.loads(body)

    def _take(self, request: wire.Request, pool: LocalPool, group: asyncio.TaskGroup) -> None:
        if request["op"] == "cancel":
            task = self._tasks.get(request["target"])
            if task is not None:
                task.cancel()
            return
        number = request["id"]
        task = group.create_task(self._answer(request, pool))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, request: wire.Request, pool: LocalPool) -> None:
        failed, result = None, None
        try:
            result = await self._obey(request, pool)
        except SandboxError as error:
            failed = str(error)
        except asyncio.CancelledError:
            failed = "cancelled"
        self._send({"kind": "answer", "id": request["id"], "failed": failed, "result": result})

    async def _obey(self, request: wire.Request, pool: LocalPool) -> wire.Result | None:
        number = request["session"]
        if request["op"] == "acquire":
            self._sessions[number] = await pool.acquire()
            return None
        if request["op"] == "once":
            found = await _once(pool, request["code"], request["timeout_s"])
            return cast("wire.Result", asdict(found))
        if request["op"] == "close":
            session = self._sessions.pop(number, None)
            if session is not None:
                await session.close()
            return None
        session = self._sessions.get(number)
        if session is None:
            raise SandboxError(f"no session {number}")
        if request["op"] == "reset":
            await session.reset()
            return None
        if request["op"] == "interrupt":
            await session.interrupt()
            return None
        if request["op"] == "fork":
            copies = await session.fork(request["count"])
            self._sessions.update(enumerate(copies, request["target"]))
            return None
        found = await session.run(request["code"], timeout_s=request["timeout_s"])
        return cast("wire.Result", asdict(found))

    def _send(self, message: wire.Message) -> None:
        # Blocking is right: nothing is lost. A reader that is gone shows as the end of our input.
        with contextlib.suppress(OSError):
            self._target.write(wire.frame(message))
            self._target.flush()


def _pool(order: wire.Order) -> LocalPool:
    return LocalPool(
        limits=SandboxLimits(**order["limits"]),
        min_isolation=cast("IsolationLevel", order["min_isolation"]),
        python=sys.executable,
        max_sessions=order["max_sessions"],
    )


async def _once(pool: LocalPool, code: str, timeout_s: float) -> ExecResult:
    if isinstance(cast("object", pool), OneShot):
        return await pool.run_once(code, timeout_s=timeout_s)
    session = await pool.acquire()
    try:
        result = await session.run(code, timeout_s=timeout_s)
    finally:
        await session.close()
    return replace(result, state_lost=False)
