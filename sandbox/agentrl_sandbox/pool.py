"""What the pools share: one zygote, spares, a bounded number of sessions, recovery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Generator

from agentrl.errors import SandboxError, SandboxUnavailable
from agentrl.sandbox import ExecResult, IsolationLevel, PoolStatistics, SandboxLimits
from agentrl_sandbox import cgroups
from agentrl_sandbox.child import Child
from agentrl_sandbox.conversation import Conversation
from agentrl_sandbox.copying import copies_of
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.forkers import Forkers
from agentrl_sandbox.inside import wire
from agentrl_sandbox.inside.plan import Plan
from agentrl_sandbox.link import Link
from agentrl_sandbox.session import Session, Terms
from agentrl_sandbox.size import Size
from agentrl_sandbox.slots import Slots
from agentrl_sandbox.spares import Spares

_log = logging.getLogger("agentrl.sandbox")
_READY_S = 60.0
_REAP_S = 5.0
_VALUE_SPARE = 64
_LOOK_S = 30.0


class ForkPool(ABC):
    """Base of the pools that fork sessions from a warm interpreter; owns all but the level."""

    def __init__(self, limits: SandboxLimits, python: str | None, size: Size) -> None:
        self._limits = limits
        self._python = python
        self._size = size
        self._level: IsolationLevel | None = None
        self._link: Link | None = None
        self._linking = asyncio.Lock()
        self._sessions: set[Session] = set()
        self._spares = Spares(size.spares, self._spawn, self._crowded)
        self._keeper: asyncio.Task[None] | None = None
        self._leaving: asyncio.TaskGroup | None = None
        self._running = 0
        self._counts = Counts()
        self._slots = Slots(size.max_sessions, size.wait_s, self._counts)
        self._forkers: Forkers | None = None

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
            link = await self._start_link(level)
            try:
                child = await self._ready_child(link)
                await child.close(_REAP_S)
            except BaseException:
                await self._end_link(link)
                raise
        except SandboxError as error:
            raise SandboxUnavailable(
                f"isolation level {level} cannot be set up: {error}"
            ) from error
        self._link, self._level, self._counts = link, level, Counts()
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
            group.create_task(self._reap_idle())
            if self._size.spares:
                group.create_task(self._spares.refill())

    def _crowded(self) -> bool:
        """Whether forking now would take a processor from code that runs."""
        return self._running >= (os.cpu_count() or 1) and len(self._spares) > 0

    async def _reap_idle(self) -> None:
        while True:
            await asyncio.sleep(min(self._size.idle_s / 4, _LOOK_S))
            for session in list(self._sessions):
                if session.idle_s() > self._size.idle_s:
                    self._counts.expired += 1
                    await session.expire()

    async def _start_link(self, level: IsolationLevel) -> Link:
        """A warm zygote, and a home for cgroups where the level has them."""
        if level != "strong":
            return await Link.start(self._plan(level), self._python)
        try:
            places = cgroups.find()
            places.sweep()
            home = places.make_home(self._limits)
        except OSError as error:
            raise SandboxError(f"no cgroups can be made any more: {error}") from error
        try:
            link = await Link.start(self._plan(level, home.paths()), self._python)
        except BaseException:
            home.remove()
            raise
        self._forkers = Forkers(link, home)
        return link

    async def _end_link(self, link: Link) -> None:
        forkers, self._forkers = self._forkers, None
        if forkers is not None:
            await forkers.close()
        await link.close()
        if forkers is not None:
            forkers.home.remove()

    def _plan(self, level: IsolationLevel, homes: tuple[str, ...] = ()) -> Plan:
        limits = self._limits
        return Plan(
            level=level,
            processes=limits.processes,
            cgroups=homes,
            memory_mb=limits.memory_mb,
            disk_mb=limits.disk_mb,
            open_files=limits.open_files,
            value_bytes=max(limits.output_bytes - _VALUE_SPARE, 0),
        )

    async def acquire(self) -> Session:
        """Lease a fresh interpreter, at once when a spare stands ready.

        Waits for a slot while all are taken. Raises SandboxError when none came free within
        `wait_s` or no interpreter can be made.
        """
        waited_s = await self._take_slots(1)
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

    async def _take_slots(self, count: int) -> float:
        """Seconds waited for `count` slots. Raises SandboxError when they do not come free."""
        self._check_open()
        slots = self._slots
        waited_s = await slots.take(count)
        if self._level is None:
            for _ in range(count):
                slots.give_back()
        self._check_open()
        return waited_s

    def _check_open(self) -> None:
        if self._level is None:
            raise SandboxError("the sandbox pool is not open")

    async def _open_session(self, waited_s: float) -> Session:
        """A session in a slot already taken; the slot is given back when that fails."""
        began = time.monotonic()
        try:
            child = self._spares.take() or await self._spawn()
        except BaseException:
            self._slots.give_back()
            raise
        return self._adopt(child, waited_s + time.monotonic() - began)

    def _adopt(self, child: Child, waited_s: float) -> Session:
        session = Session(self._terms(), child, waited_s)
        self._sessions.add(session)
        return session

    def _terms(self) -> Terms:
        return Terms(
            limits=self._limits,
            isolation=self.isolation,
            max_cells=self._size.max_cells,
            spawn=self._spawn,
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
        self._slots.give_back()

    async def _spawn(self) -> Child:
        """A ready child, from a new zygote if the old one is gone. Raises SandboxError."""
        link = await self._live_link()
        try:
            return await self._ready_child(link)
        except SandboxError:
            if not link.lost:
                raise
        return await self._ready_child(await self._live_link())

    async def _ready_child(self, link: Link) -> Child:
        forkers = self._forkers
        if forkers is None or forkers.main is not link:
            return await ready_child(link)
        forker = await forkers.take()
        try:
            child = await ready_child(forker.link)
        except BaseException:
            forkers.give_back(forker, clean=False)
            raise
        kin = child.kin
        kin.group = forker.group
        kin.gone = lambda dead: forkers.give_back(forker, clean=dead, members=kin.members)
        return child

    async def _copy(self, child: Child, count: int) -> list[Session]:
        """Sessions of copies of a child, in slots of their own."""
        waited_s = await self._take_slots(count)
        try:
            copies = await copies_of(child, count)
        except BaseException:
            for _ in range(count):
                self._slots.give_back()
            raise
        return [self._adopt(copy, waited_s) for copy in copies]

    async def _live_link(self) -> Link:
        async with self._linking:
            if self._level is None or self._link is None:
                raise SandboxError("the sandbox pool is closed")
            if self._link.lost:
                self._counts.replaced()
                await self._end_link(self._link)
                self._link = await self._start_link(self._level)
            return self._link

    async def close(self) -> None:
        """End every session, the zygote and its namespaces. Idempotent."""
        self._level = None
        keeper, self._keeper, self._leaving = self._keeper, None, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=_LOOK_S)
            if keeper.done() and not keeper.cancelled() and keeper.exception() is not None:
                _log.error("the pool's background work had ended", exc_info=keeper.exception())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._spares.close())
            for session in list(self._sessions):
                group.create_task(session.close())
        async with self._linking:
            link, self._link = self._link, None
            if link is not None:
                await self._end_link(link)

    def statistics(self) -> PoolStatistics:
        """Counts for metrics."""
        return self._slots.statistics(open_sessions=len(self._sessions), spares=len(self._spares))


async def ready_child(link: Link) -> Child:
    """Fork and wait for the child's word that its fence stands. Raises SandboxError."""
    child = await link.fork()
    ready = False
    try:
        with Conversation(child, nonce=wire.NO_NONCE, keep_bytes=4096) as talk:
            await talk.wait(_READY_S)
            talk.finish()
        ready = talk.reply is not None and talk.reply.kind == wire.READY
    finally:
        if not ready:
            await asyncio.shield(child.close(_REAP_S))
    if not ready:
        why = talk.reply.error if talk.reply else talk.stderr.text()
        raise SandboxError(f"a session could not be confined: {why or 'it died at once'}")
    return child
