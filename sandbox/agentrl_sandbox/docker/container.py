"""One container with a relay in it, and the requests that are under way there."""

from __future__ import annotations

import asyncio
import json
from typing import cast
from uuid import uuid4

from agentrl.errors import SandboxError
from agentrl.sandbox import IsolationLevel
from agentrl_sandbox.docker import bundle, wire
from agentrl_sandbox.docker.channel import Channel
from agentrl_sandbox.docker.daemon import Box, Daemon

_READY_S = 60.0


class Container:
    """Made by `start`; once `lost` it stays lost, and with it every session inside."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._daemon = daemon
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self._heard, self._ended)
        self._first: asyncio.Future[wire.Ready | wire.Broken | None] = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, asyncio.Future[wire.Answer | None]] = {}
        self._next = 0
        self.sessions = 0
        """Places taken."""
        self.isolation: IsolationLevel = "none"
        """The level that the relay probed."""

    @classmethod
    async def start(cls, daemon: Daemon, box: Box, order: wire.Order) -> Container:
        """Start one and wait until its relay is warm. Raises SandboxError with its last words."""
        container = cls(daemon, f"agentrl-sandbox-{uuid4().hex[:16]}")
        try:
            await container._launch(box, order)
            await container._settled()
        except BaseException:
            await asyncio.shield(container.close())
            raise
        return container

    async def _launch(self, box: Box, order: wire.Order) -> None:
        launching = self._loop.run_in_executor(None, self._daemon.launch, self._name, box)
        try:
            channel = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # The thread cannot be stopped; what it makes must not outlive us.
            (await launching).close()
            raise
        await self._loop.create_connection(lambda: self._channel, sock=channel)
        self._channel.send(bundle.sources() + wire.frame(order))

    async def _settled(self) -> None:
        await asyncio.wait({self._first}, timeout=_READY_S)
        first = self._first.result() if self._first.done() else None
        if first is None:
            # The end of stdout and the last of stderr come together.
            words = self._channel.last_words or "it says nothing"
            raise SandboxError(f"the container's Python does not serve: {words}")
        if first["kind"] == "broken":
            raise SandboxError(first["why"])
        self.isolation = cast("IsolationLevel", first["isolation"])

    @property
    def lost(self) -> bool:
        """Whether the relay can no longer be reached."""
        return self._over.done()

    def _heard(self, body: bytes) -> None:
        message = json.loads(body)
        if message["kind"] != "answer":
            if not self._first.done():
                self._first.set_result(message)
            return
        future = self._waiting.pop(message["id"], None)
        if future is not None and not future.done():
            future.set_result(message)

    def _ended(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
        if not self._first.done():
            self._first.set_result(None)
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def ask(
        self,
        op: wire.Op,
        session: int = 0,
        *,
        code: str = "",
        timeout_s: float = 0.0,
        target: int = 0,
        count: int = 0,
        deadline_s: float,
    ) -> wire.Result | None:
        """Have the relay do one thing; after `deadline_s` without an answer the container is killed.

        Raises SandboxError when the relay says so, when it is lost, and at the deadline.
        """
        if self.lost:
            raise SandboxError("the container is gone")
        number = self._order(op, session, code, timeout_s, target, count)
        future: asyncio.Future[wire.Answer | None] = self._loop.create_future()
        self._waiting[number] = future
        try:
            await asyncio.wait({future}, timeout=deadline_s)
        finally:
            if self._waiting.pop(number, None) is not None:
                # Nobody waits for it any more: whatever runs there is to be killed.
                self._order("cancel", session, target=number)
        if not future.done():
            await self.close()
            raise SandboxError(f"the container did not answer within {deadline_s:g} s")
        answer = future.result()
        if answer is None:
            words = self._channel.last_words
            raise SandboxError(f"the container was lost{': ' + words if words else ''}")
        if answer["failed"] is not None:
            raise SandboxError(answer["failed"])
        return answer["result"]

    def _order(
        self,
        op: wire.Op,
        session: int,
        code: str = "",
        timeout_s: float = 0.0,
        target: int = 0,
        count: int = 0,
    ) -> int:
        number, self._next = self._next, self._next + 1
        request: wire.Request = {
            "id": number, "op": op, "session": session, "code": code, "timeout_s": timeout_s,
            "target": target, "count": count,
        }  # fmt: skip
        self._channel.send(wire.frame(request))
        return number

    async def close(self) -> None:
        """Hang up and see to it that the container is removed. Idempotent."""
        self._channel.close()
        self._ended()
        await asyncio.to_thread(self._daemon.remove, self._name)
