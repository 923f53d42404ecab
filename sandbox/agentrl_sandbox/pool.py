"""What the pools share: one zygote, spares, a bounded number of sessions, recovery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Generator

from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, IsolationLevel, PoolStatistics, SandboxLimits
from agentrl_sandbox.child import Child
from agentrl_sandbox.copying import copies_of
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.session import Session, Terms
from agentrl_sandbox.size import Size
from agentrl_sandbox.slots import Slots
from agentrl_sandbox.spares import Spares
from agentrl_sandbox.zygotes import Zygotes

_log = logging.getLogger("agentrl.sandbox")
_LOOK_S = 10.0
_END_S = 30.0


class ForkPool(ABC):
    """Base of the pools that fork sessions from a warm interpreter; owns all but the level."""

    def __init__(self, limits: SandboxLimits, python: str | None, size: Size) -> None:
        self._limits = limits
        self._python = python
        self._size = size
        self._level: IsolationLevel | None = None
        self._zygotes = Zygotes(limits, python)
        self._sessions: set[Session] = set()
        self._spares = Spares(size.spares, self._zygotes.spawn, self._crowded)
        self._keeper: asyncio.Task[None] | None = None
        self._leaving: asyncio.TaskGroup | None = None
        self._running = 0
        self._counts = Counts()
        self._slots = Slots(size.max_sessions, size.wait_s, self._counts)

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
        await self._zygotes.open(level)
        self._level, self._counts = level, Counts()
        self._zygotes.counts = self._counts
        self._slots = Slots(self._size.max_sessions, self._size.wait_s, self._counts)
        started = asyncio.Event()
        # Lives from here to `close`, which awaits it: no block of code could hold it.
        self._keeper = asyncio.get_running_loop().create_task(self._keep(started))
        await started.wait()

    async def _keep(self, started: asyncio.Event) -> None:
        """The pool's background work, until cancelled: refill, look for idle sessions, bury."""
        async with asyncio.TaskGroup() as group:
            self._leaving = group
            started.set()
            group.create_task(self._look_after())
            if self._size.spares:
                group.create_task(self._spares.refill())

    def _crowded(self) -> bool:
        """Whether forking now would take a processor from code that runs."""
        return self._running >= (os.cpu_count() or 1) and len(self._spares) > 0

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(min(self._size.idle_s / 4, _LOOK_S))
            for session in list(self._sessions):
                if session.idle_s() > self._size.idle_s:
                    self._counts.expired += 1
                    await session.expire()
            await self._zygotes.tidy()

    async def acquire(self) -> Session:
        """Lease a fresh interpreter, at once when a spare stands ready.

        Waits for a slot while all are taken. Raises SandboxError when none came free within
        `wait_s` or no interpreter can be made.
        """
        waited_s = await self._take_slot()
        return await self._open_session(waited_s)

    async def run_once(self, code: str, *, timeout_s: float) -> ExecResult:
        """Run `code` in an interpreter of its own; see `agentrl.sandbox.OneShot`.

        At the deadline the interpreter is killed without a grace. It is buried in the background:
        the result does not wait for that, the slot does.
        """
        session = await self.acquire()
        session.single_use()
        try:
            return await session.run(code, timeout_s=timeout_s)
        finally:
            session.hang_up()
            if self._leaving is not None and self._level is not None:
                self._leaving.create_task(session.close())
            else:
                await session.close()

    async def _take_slot(self) -> float:
        """Seconds waited for a slot. Raises SandboxError when none comes free."""
        self._check_open()
        waited_s = await self._slots.take()
        if self._level is None:
            self._slots.give_back()
        self._check_open()
        return waited_s

    def _check_open(self) -> None:
        if self._level is None:
            raise SandboxError("the sandbox pool is not open")

    async def _open_session(self, waited_s: float) -> Session:
        """A session in a slot already taken; the slot is given back when that fails."""
        began = time.monotonic()
        try:
            child = self._spares.take() or await self._zygotes.spawn()
        except BaseException:
            self._slots.give_back()
            raise
        return self._adopt(child, waited_s + time.monotonic() - began)

    def _adopt(self, child: Child, waited_s: float = 0.0, *, copied: bool = False) -> Session:
        session = Session(self._terms(), child, waited_s, copied=copied)
        self._sessions.add(session)
        return session

    def _terms(self) -> Terms:
        return Terms(
            limits=self._limits,
            isolation=self.isolation,
            max_cells=self._size.max_cells,
            spawn=self._zygotes.spawn,
            copy=self._copy,
            counts=self._counts,
            running=self._while_running,
            released=self._release,
        )

    @contextlib.contextmanager
    def _while_running(self) -> Generator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _release(self, session: Session) -> None:
        self._sessions.discard(session)
        if not session.copied:
            self._slots.give_back()

    async def _copy(self, child: Child, count: int) -> list[Session]:
        """Sessions of copies of a child.

        They take no slots: sessions that hold every slot while each waits for more of them to fork
        would wait for ever.
        """
        self._check_open()
        return [self._adopt(copy, copied=True) for copy in await copies_of(child, count)]

    async def close(self) -> None:
        """End every session, the zygote and its namespaces. Idempotent."""
        self._level = None
        keeper, self._keeper, self._leaving = self._keeper, None, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=_END_S)
            if keeper.done() and not keeper.cancelled() and keeper.exception() is not None:
                _log.error("the pool's background work had ended", exc_info=keeper.exception())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._spares.close())
            for session in list(self._sessions):
                group.create_task(session.close())
        await self._zygotes.close()

    def statistics(self) -> PoolStatistics:
        """Counts for metrics."""
        copies = sum(session.copied for session in self._sessions)
        return self._slots.statistics(
            open_sessions=len(self._sessions), copies=copies, spares=len(self._spares)
        )
