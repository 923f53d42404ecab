"""What the pools share: one zygote, a bounded number of sessions, recovery when it is lost."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from agentrl.errors import SandboxError, SandboxUnavailable
from agentrl.sandbox import IsolationLevel, PoolStatistics, SandboxLimits
from agentrl_sandbox.child import Child
from agentrl_sandbox.conversation import Conversation
from agentrl_sandbox.inside import wire
from agentrl_sandbox.inside.plan import Plan
from agentrl_sandbox.link import Link
from agentrl_sandbox.session import Session, Terms

_READY_S = 20.0
_REAP_S = 5.0
_VALUE_SPARE = 64


class ForkPool(ABC):
    """Base of the pools that fork sessions from a warm interpreter; owns all but the level."""

    def __init__(self, limits: SandboxLimits, python: str | None, max_sessions: int) -> None:
        self._limits = limits
        self._python = python
        self._slots = asyncio.Semaphore(max_sessions)
        self._level: IsolationLevel | None = None
        self._link: Link | None = None
        self._linking = asyncio.Lock()
        self._sessions: set[Session] = set()
        self._waiting = 0
        self._runs = 0
        self._restarts = 0

    @abstractmethod
    async def _choose_level(self) -> IsolationLevel:
        """The level that sessions will have. Raises SandboxUnavailable."""

    @property
    def isolation(self) -> IsolationLevel:
        """The level of this pool's sessions; `none` before `open`."""
        return self._level or "none"

    async def open(self) -> None:
        """Probe, warm up, and prove on a throw-away session that the fence stands.

        Raises SandboxUnavailable with the remedy. Opening an open pool does nothing.
        """
        if self._level is not None:
            return
        level = await self._choose_level()
        try:
            link = await Link.start(self._plan(level), self._python)
            try:
                child = await _ready_child(link)
                await child.close(_REAP_S)
            except BaseException:
                await link.close()
                raise
        except SandboxError as error:
            raise SandboxUnavailable(
                f"isolation level {level} cannot be set up: {error}"
            ) from error
        self._link, self._level = link, level

    def _plan(self, level: IsolationLevel) -> Plan:
        limits = self._limits
        return Plan(
            level=level,
            memory_mb=limits.memory_mb,
            disk_mb=limits.disk_mb,
            open_files=limits.open_files,
            value_bytes=max(limits.output_bytes - _VALUE_SPARE, 0),
        )

    async def acquire(self) -> Session:
        """Lease a fresh interpreter, waiting for a slot if all are taken. Raises SandboxError."""
        if self._level is None:
            raise SandboxError("the sandbox pool is not open")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            session = Session(self._terms(), await self._spawn())
        except BaseException:
            self._slots.release()
            raise
        self._sessions.add(session)
        return session

    def _terms(self) -> Terms:
        return Terms(
            limits=self._limits,
            isolation=self.isolation,
            spawn=self._spawn,
            ran=self._count_run,
            replaced=self._count_restart,
            released=self._release,
        )

    def _count_run(self) -> None:
        self._runs += 1

    def _count_restart(self) -> None:
        self._restarts += 1

    def _release(self, session: Session) -> None:
        self._sessions.discard(session)
        self._slots.release()

    async def _spawn(self) -> Child:
        """A ready child, from a new zygote if the old one is gone. Raises SandboxError."""
        link = await self._live_link()
        try:
            return await _ready_child(link)
        except SandboxError:
            if not link.lost:
                raise
        return await _ready_child(await self._live_link())

    async def _live_link(self) -> Link:
        async with self._linking:
            if self._level is None or self._link is None:
                raise SandboxError("the sandbox pool is closed")
            if self._link.lost:
                self._restarts += 1
                await self._link.close()
                self._link = await Link.start(self._plan(self._level), self._python)
            return self._link

    async def close(self) -> None:
        """End every session, the zygote and its namespaces. Idempotent."""
        self._level = None
        async with asyncio.TaskGroup() as group:
            for session in list(self._sessions):
                group.create_task(session.close())
        async with self._linking:
            link, self._link = self._link, None
            if link is not None:
                await link.close()

    def statistics(self) -> PoolStatistics:
        """Counts for metrics."""
        return PoolStatistics(
            open_sessions=len(self._sessions),
            waiting=self._waiting,
            runs=self._runs,
            restarts=self._restarts,
        )


async def _ready_child(link: Link) -> Child:
    """Fork and wait for the child's word that its fence stands. Raises SandboxError."""
    child = await link.fork()
    ready = False
    try:
        with Conversation(child, nonce=wire.NO_NONCE, keep_bytes=4096) as talk:
            await asyncio.wait({talk.ended}, timeout=_READY_S)
            talk.finish()
        ready = talk.reply is not None and talk.reply.kind == wire.READY
    finally:
        if not ready:
            await asyncio.shield(child.close(_REAP_S))
    if not ready:
        why = talk.reply.error if talk.reply else talk.stderr.text()
        raise SandboxError(f"a session could not be confined: {why or 'it died at once'}")
    return child
