"""Zygotes that each live in a cgroup of their own, so that what they fork is in it from birth.

Moving a process into a cgroup takes the kernel 10 ms and more; a child is in its parent's for
nothing. So at level `strong` every session is forked by a zygote that was moved once, and that
serves one session, with its copies, at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from agentrl.errors import SandboxError
from agentrl_sandbox.cgroups import Group, Home
from agentrl_sandbox.link import Link

_log = logging.getLogger("agentrl.sandbox")
_KEEP_S = 20.0
"""How long one is kept without a session: a step's sessions come in waves."""


@dataclass(slots=True, eq=False)
class Forker:
    """One such zygote."""

    link: Link
    group: Group
    index: int
    """Its users are the ones with this number."""
    since: float = field(default_factory=time.monotonic)
    """When it last had a session."""


class Forkers:
    """Those of one main zygote: made when needed, kept for the next session."""

    def __init__(self, main: Link, home: Home) -> None:
        self.main = main
        self.home = home
        self._idle: deque[Forker] = deque()
        self._all: set[Forker] = set()
        self._taken: set[int] = set()
        self._serials = itertools.count()

    async def take(self) -> Forker:
        """A zygote that has no session. Raises SandboxError."""
        while self._idle:
            forker = self._idle.pop()
            if not forker.link.lost:
                return forker
            await self._drop(forker)
        index = next(n for n in itertools.count() if n not in self._taken)
        self._taken.add(index)
        try:
            return await self._make(index)
        except BaseException:
            self._taken.discard(index)
            raise

    async def _make(self, index: int) -> Forker:
        try:
            group = self.home.make_group(str(next(self._serials)))
        except OSError as error:
            raise SandboxError(f"no cgroup for another session: {error}") from error
        try:
            link = await self.main.split(index)
        except BaseException:
            group.remove()
            raise
        forker = Forker(link, group, index)
        self._all.add(forker)
        try:
            await asyncio.to_thread(group.attach, link.pid)
        except OSError as error:
            await self._drop(forker)
            raise SandboxError(f"a session could not be put into a cgroup: {error}") from error
        return forker

    def give_back(self, forker: Forker, *, clean: bool, members: int = 1) -> None:
        """Keep it for the next session. `clean`: all `members` that it forked are known to be dead."""
        if members > 1:
            try:
                forker.group.allow(1)
            except OSError as error:
                _log.warning("a cgroup could not be made ready for another session: %s", error)
                clean = False
        if not clean:
            # Buried when the next session looks for one.
            forker.link.kill()
        forker.since = time.monotonic()
        self._idle.append(forker)

    async def tidy(self) -> None:
        """End those that nobody needed for a while; the last one used is the next one taken."""
        while self._idle and time.monotonic() - self._idle[0].since > _KEEP_S:
            await self._drop(self._idle.popleft())

    async def _drop(self, forker: Forker) -> None:
        forker.link.kill()
        await forker.link.close()
        forker.group.remove()
        self._all.discard(forker)
        self._taken.discard(forker.index)

    async def close(self) -> None:
        """End them all."""
        async with asyncio.TaskGroup() as group:
            for forker in list(self._all):
                group.create_task(self._drop(forker))
