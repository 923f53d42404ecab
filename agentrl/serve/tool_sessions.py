"""Tools held open for clients: each session has tools and a sandbox of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agentrl.context import Context
from agentrl.errors import UserError, WorldFault
from agentrl.rollout.limits import Lease
from agentrl.sandbox import SandboxPool
from agentrl.tool import Tool, call_tool
from agentrl.toolset import Named, Toolset, connected
from agentrl.types import ToolCall, ToolResult

_LOOK_S = 5.0


class Busy(WorldFault):
    """No further session is opened at present."""


@dataclass(eq=False, slots=True)
class ToolSession:
    """One client's open tools; its calls run one after another."""

    named: Sequence[Named]
    lease: Lease
    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    context: Context = field(default_factory=Context)
    used: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0

    async def open(self) -> None:
        """Connect and open every tool. Raises what they raise; `close` is still due then."""
        self.context = Context(lease_sandbox=self.lease.get)
        self.tools = {tool.name: tool for tool in await connected(self.named, self.context)}
        for tool in self.tools.values():
            await tool.open(self.context)

    async def call(self, call: ToolCall, timeout_s: float) -> ToolResult:
        """Run one call at the tool border. Raises WorldFault."""
        self.calls += 1
        return await call_tool(self.tools, call, self.context, timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the tools, what brought them, and the sandbox."""
        try:
            for tool in self.tools.values():
                await tool.close()
            for one in self.named:
                if isinstance(one, Toolset):
                    await one.close()
        finally:
            await self.lease.close()


class ToolSessions:
    """All sessions of a server, made on first use."""

    def __init__(
        self,
        make: Callable[[], Sequence[Named]],
        pool: SandboxPool | None,
        *,
        idle_s: float = 1800.0,
        most: int = 1024,
    ) -> None:
        """`make` gives a session's tools; one unused for `idle_s` is closed; `most` at once."""
        if idle_s <= 0 or most < 1:
            raise UserError("idle_s must be above 0 and the number of sessions at least 1")
        self._make, self._pool = make, pool
        self._idle_s, self._most = idle_s, most
        self._sessions: dict[str, ToolSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def calls(self, name: str) -> int:
        """Calls made in a session so far."""
        session = self._sessions.get(name)
        return 0 if session is None else session.calls

    async def call(self, name: str, call: ToolCall, timeout_s: float) -> ToolResult:
        """One call in a session. Raises WorldFault, Busy when no session can be opened."""
        session = await self.get(name)
        async with session.lock:
            try:
                return await session.call(call, timeout_s)
            finally:
                session.used = time.monotonic()

    async def get(self, name: str) -> ToolSession:
        """The session of that name, opened now if it is new. Raises Busy or WorldFault."""
        session = self._sessions.get(name)
        if session is None:
            if len(self._sessions) >= self._most:
                raise Busy(f"{self._most} sessions are open already; close one or come back later")
            session = ToolSession(self._make(), Lease(self._pool), used=time.monotonic())
            self._sessions[name] = session
            async with session.lock:
                try:
                    await session.open()
                except BaseException:
                    await asyncio.shield(self.close(name))
                    raise
        elif session.lock.locked() and not session.tools:
            async with session.lock:  # another request opens it
                if self._sessions.get(name) is not session:
                    raise Busy("the session could not be opened")
        return session

    async def close(self, name: str) -> None:
        """Close a session; an unknown one is none to close."""
        session = self._sessions.pop(name, None)
        if session is not None:
            await session.close()

    async def reap(self) -> None:
        """Close idle sessions until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK_S, self._idle_s / 2))
            old = time.monotonic() - self._idle_s
            for name, session in list(self._sessions.items()):
                if session.used < old and not session.lock.locked():
                    await self.close(name)

    async def close_all(self) -> None:
        """Close every session."""
        for name in list(self._sessions):
            await self.close(name)


__all__ = ["Busy", "ToolSession", "ToolSessions"]
