"""Where a pool's children come from: one zygote, replaced when it is lost."""

from __future__ import annotations

import asyncio

from agentrl.errors import SandboxError, SandboxUnavailable
from agentrl.sandbox import IsolationLevel, SandboxLimits
from agentrl_sandbox import cgroups
from agentrl_sandbox.child import Child
from agentrl_sandbox.conversation import Conversation
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.forkers import Forkers
from agentrl_sandbox.inside import wire
from agentrl_sandbox.inside.plan import Plan
from agentrl_sandbox.link import Link

REAP_S = 5.0
_READY_S = 60.0
_VALUE_SPARE = 64


class Zygotes:
    """The present zygote of an open pool, and at level `strong` those that it forked."""

    def __init__(self, limits: SandboxLimits, python: str | None) -> None:
        self._limits = limits
        self._python = python
        self._level: IsolationLevel | None = None
        self._starting = asyncio.Lock()
        self._forkers: Forkers | None = None
        self.counts = Counts()
        """Where a lost zygote is counted."""
        self.link: Link | None = None
        """The zygote's channel; None before `open` and after `close`."""

    async def open(self, level: IsolationLevel) -> None:
        """Warm up, and prove on a throw-away session that the fence stands.

        Raises SandboxUnavailable with the reason.
        """
        try:
            link = await self._start(level)
            try:
                child = await self._ready_child(link)
                await child.close(REAP_S)
            except BaseException:
                await self._end(link)
                raise
        except SandboxError as error:
            raise SandboxUnavailable(
                f"isolation level {level} cannot be set up: {error}"
            ) from error
        self.link, self._level = link, level

    async def spawn(self) -> Child:
        """A ready child, from a new zygote if the old one is gone. Raises SandboxError."""
        link = await self._live()
        try:
            return await self._ready_child(link)
        except SandboxError:
            if not link.lost:
                raise
        return await self._ready_child(await self._live())

    async def tidy(self) -> None:
        """End the zygotes that have had no session for a while."""
        if self._forkers is not None:
            await self._forkers.tidy()

    async def _live(self) -> Link:
        async with self._starting:
            if self._level is None or self.link is None:
                raise SandboxError("the sandbox pool is closed")
            if self.link.lost:
                self.counts.replaced()
                await self._end(self.link)
                self.link = await self._start(self._level)
            return self.link

    async def _start(self, level: IsolationLevel) -> Link:
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

    async def _end(self, link: Link) -> None:
        forkers, self._forkers = self._forkers, None
        if forkers is not None:
            await forkers.close()
        await link.close()
        if forkers is not None:
            forkers.home.remove()

    async def close(self) -> None:
        """End them, and their namespaces and cgroups. Idempotent."""
        self._level = None
        async with self._starting:
            link, self.link = self.link, None
            if link is not None:
                await self._end(link)


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
            await asyncio.shield(child.close(REAP_S))
    if not ready:
        why = talk.reply.error if talk.reply else talk.stderr.text()
        raise SandboxError(f"a session could not be confined: {why or 'it died at once'}")
    return child
