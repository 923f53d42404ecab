"""The `docker` sandbox: warm interpreters in a few containers, shared by many sessions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TypeVar, cast

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import ExecResult, IsolationLevel, PoolStatistics, SandboxLimits
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.docker import wire
from agentrl_sandbox.docker.container import Container
from agentrl_sandbox.docker.daemon import Box, Daemon
from agentrl_sandbox.docker.session import (
    SLACK_S,
    DockerSession,
    Place,
    Terms,
    refused,
    to_result,
)
from agentrl_sandbox.slots import Slots

IMAGE = "agentrl-sandbox"
_GVISOR = "runsc"
_ATTEMPTS = 3
_PAUSE_S = 0.25
_PLACE_S = 60.0
_LEAVE_S = 15.0
_BASE_MB = 384
"""Memory of the relay and the warm interpreters of one container."""
_BASE_PROCESSES = 64
_THREADS = 64
"""Threads for each session, on average."""
_CROWD = 2
"""Times as many sessions as usual may be in a container when some are copies."""
_SHARE = 0.8
"""Of the machine's memory that one container may take at most."""

T = TypeVar("T")

_log = logging.getLogger("agentrl.sandbox.docker")


class DockerPool:
    """Sessions of the `local` back end inside locked-down containers, for a machine with Docker.

    `image`: any with Python 3.11 or later, numpy and sympy; nothing of ours needs to be in it.
    `python`: the interpreter's name or path in the image.
    `runtime`: a container runtime that the daemon knows; None: `runsc` (gVisor) where it is listed
    and gives `min_isolation`, else the daemon's default.
    `sessions_per_container`: fewer keep sessions further apart, at about half a second and 60 MB
    for each container.
    `wait_s`: how long `acquire` waits for a slot.
    """

    def __init__(
        self,
        *,
        limits: SandboxLimits = SandboxLimits(),  # noqa: B008 - frozen
        min_isolation: IsolationLevel = "lite",
        image: str = IMAGE,
        python: str = "python3",
        runtime: str | None = None,
        max_sessions: int = 64,
        sessions_per_container: int = 16,
        wait_s: float = 600.0,
    ) -> None:
        if sessions_per_container < 1:
            raise UserError("sessions_per_container must be at least 1")
        self._limits = limits
        self._least: IsolationLevel = min_isolation
        self._image = image
        self._python = python
        self._runtime = runtime
        self._counts = Counts()
        self._slots = Slots(max_sessions, wait_s, self._counts)
        self._per_container = min(sessions_per_container, max_sessions)
        self._daemon: Daemon | None = None
        self._level: IsolationLevel = "none"
        self._containers: list[Container] = []
        self._choosing = asyncio.Lock()
        self._sessions: set[DockerSession] = set()
        self._next = 0
        self._terms = Terms(self._place, self._copies, self._leave, self._counts, self._release)

    @property
    def isolation(self) -> IsolationLevel:
        """The level inside a container, between its sessions; `none` before `open`."""
        return self._level

    async def open(self) -> None:
        """Find daemon and image, sweep what dead runs left, and warm up the first container.

        Raises SandboxUnavailable with the remedy. Opening an open pool does nothing.
        """
        if self._daemon is not None:
            return
        daemon = await asyncio.to_thread(Daemon.connect)
        try:
            await asyncio.to_thread(daemon.check_image, self._image, _how_to_get(self._image))
            swept = await asyncio.to_thread(daemon.sweep)
            if swept:
                _log.warning("removed %d containers that dead runs had left", swept)
            self._runtime, first = await self._first(daemon)
        except SandboxError as error:
            await asyncio.to_thread(daemon.close)
            raise SandboxUnavailable(
                f"image {self._image!r} cannot serve as a sandbox: {error}"
            ) from error
        except BaseException:
            await asyncio.to_thread(daemon.close)
            raise
        self._daemon, self._level, self._containers = daemon, first.isolation, [first]

    async def _first(self, daemon: Daemon) -> tuple[str | None, Container]:
        """The runtime that gives the demanded level, and a container of it. Raises SandboxError."""
        if self._runtime is None and _GVISOR in daemon.runtimes:
            try:
                return _GVISOR, await self._start(daemon, _GVISOR)
            except SandboxError as error:
                _log.warning("not in %s, but in the daemon's default runtime: %s", _GVISOR, error)
        return self._runtime, await self._start(daemon, self._runtime)

    async def _start(self, daemon: Daemon, runtime: str | None) -> Container:
        limits, places = self._limits, self._per_container
        memory_mb = _BASE_MB + places * (limits.memory_mb + limits.disk_mb)
        if daemon.memory_mb:
            memory_mb = min(memory_mb, int(_SHARE * daemon.memory_mb))
        box = Box(
            image=self._image,
            python=self._python,
            runtime=runtime,
            memory_mb=memory_mb,
            disk_mb=places * limits.disk_mb,
            processes=_BASE_PROCESSES + places * _THREADS,
        )
        order: wire.Order = {
            "limits": cast("wire.Limits", asdict(limits)),
            # Copies, and interpreters that are still being buried, need places too.
            "max_sessions": 2 * _CROWD * places,
            "min_isolation": self._least,
        }
        return await Container.start(daemon, box, order)

    async def acquire(self) -> DockerSession:
        """Lease a fresh interpreter, waiting for a slot if all are taken. Raises SandboxError."""
        if self._daemon is None:
            raise SandboxError("the sandbox pool is not open")
        asked = time.monotonic()
        await self._slots.take()
        try:
            place = await self._place()
        except BaseException:
            self._slots.give_back()
            raise
        return self._adopt(place, time.monotonic() - asked)

    def _adopt(self, place: Place, waited_s: float = 0.0, *, copied: bool = False) -> DockerSession:
        session = DockerSession(self._terms, place, waited_s, copied=copied)
        self._sessions.add(session)
        return session

    async def _copies(self, place: Place, count: int) -> list[DockerSession]:
        container, first = place.container, self._next
        room = _CROWD * self._per_container - container.sessions
        if count > room:
            raise SandboxError(
                f"the session's container has room for {max(room, 0)} copies, not {count}: raise "
                "sessions_per_container"
            )
        self._next += count
        container.sessions += count
        try:
            await container.ask(
                "fork", place.number, target=first, count=count, deadline_s=_PLACE_S
            )
        except BaseException:
            container.sessions -= count
            raise
        places = [Place(container, number, place.runs) for number in range(first, first + count)]
        return [self._adopt(copy, copied=True) for copy in places]

    async def run_once(self, code: str, *, timeout_s: float) -> ExecResult:
        """Run code in an interpreter of its own, one message each way; see `OneShot`."""
        asked = time.monotonic()
        await self._slots.take()
        try:
            container = await self._persistently(self._chosen)
            try:
                result = await self._once(container, code, timeout_s, asked)
            finally:
                container.sessions -= 1
        finally:
            self._slots.give_back()
        self._counts.ended(result)
        return result

    async def _once(
        self, container: Container, code: str, timeout_s: float, asked: float
    ) -> ExecResult:
        if (refusal := refused(code, container)) is not None:
            return refusal
        self._counts.began()
        queue_s = time.monotonic() - asked
        answer = await container.ask(
            "once", code=code, timeout_s=timeout_s, deadline_s=timeout_s + SLACK_S
        )
        return to_result(answer, queue_s)

    def _release(self, session: DockerSession) -> None:
        self._sessions.discard(session)
        if not session.copied:
            self._slots.give_back()

    async def _place(self) -> Place:
        """A fresh interpreter, in another container if one fails. Raises SandboxError."""
        return await self._persistently(self._placed)

    async def _persistently(self, act: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, _ATTEMPTS):
            try:
                return await act()
            except SandboxError as error:
                _log.warning("attempt %d of %d failed: %s", attempt, _ATTEMPTS, error)
                await asyncio.sleep(_PAUSE_S * attempt)
        return await act()

    async def _placed(self) -> Place:
        container = await self._chosen()
        place = Place(container, self._next)
        self._next += 1
        try:
            await container.ask("acquire", place.number, deadline_s=_PLACE_S)
        except BaseException:
            container.sessions -= 1
            raise
        return place

    async def _chosen(self) -> Container:
        """The container with the most room, a place in it taken; a new one when all are full."""
        async with self._choosing:
            if self._daemon is None:
                raise SandboxError("the sandbox pool is closed")
            for lost in [c for c in self._containers if c.lost]:
                self._containers.remove(lost)
                await lost.close()
            free = [c for c in self._containers if c.sessions < self._per_container]
            if not free:
                free = [await self._start(self._daemon, self._runtime)]
                self._containers += free
            chosen = min(free, key=lambda c: c.sessions)
            chosen.sessions += 1
            return chosen

    async def _leave(self, place: Place) -> None:
        try:
            await place.container.ask("close", place.number, deadline_s=_LEAVE_S)
        except SandboxError as error:
            _log.debug("an interpreter was gone before it was closed: %s", error)
        finally:
            place.container.sessions -= 1

    async def close(self) -> None:
        """End every session and remove every container. Idempotent."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        self._level = "none"
        async with asyncio.TaskGroup() as group:
            for session in list(self._sessions):
                group.create_task(session.close())
        async with self._choosing, asyncio.TaskGroup() as group:
            for container in self._containers:
                group.create_task(container.close())
        self._containers = []
        await asyncio.to_thread(daemon.close)

    def statistics(self) -> PoolStatistics:
        """Counts for metrics."""
        copies = sum(session.copied for session in self._sessions)
        return self._slots.statistics(open_sessions=len(self._sessions), copies=copies)


def _how_to_get(image: str) -> str:
    """The exact command."""
    if image == IMAGE:
        recipe = "FROM python:3.11-slim\\nRUN pip install numpy sympy\\n"
        return f"build it with `printf '{recipe}' | docker build -t {IMAGE} -`"
    return f"get it with `docker pull {image}`, or set image to one that `docker images` lists"
