"""The `jupyter` sandbox: pre-started IPython kernels, one for each session."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import LEVELS, IsolationLevel, PoolStatistics, SandboxLimits
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.jupyter.launch import Maker, bare, bubbled, surveyed, sweep
from agentrl_sandbox.slots import Slots

if TYPE_CHECKING:
    from agentrl_sandbox.jupyter.kernel import Kernel
    from agentrl_sandbox.jupyter.session import JupyterSession

_ATTEMPTS = 3
_BWRAP = "bwrap"
_MESSAGE_BYTES = 64 << 20
_log = logging.getLogger("agentrl.sandbox.jupyter")


class JupyterPool:
    """IPython kernels through jupyter-client: notebook semantics at the price of a notebook.

    `python`: an interpreter with ipykernel, another virtual environment perhaps.
    `spares`: kernels started ahead, at about 0.7 s of CPU time and 60 MB each.
    `max_isolation`: `none` does without bubblewrap even where there is one.
    """

    def __init__(
        self,
        *,
        limits: SandboxLimits = SandboxLimits(),  # noqa: B008 - frozen
        min_isolation: IsolationLevel = "lite",
        max_isolation: IsolationLevel = "strong",
        python: str | None = None,
        max_sessions: int = 16,
        spares: int = 1,
        wait_s: float = 600.0,
    ) -> None:
        if spares < 0:
            raise UserError(f"spares={spares} must not be negative")
        self._limits = limits
        self._least: IsolationLevel = min_isolation
        self._most: IsolationLevel = max_isolation
        self._python = python
        self._counts = Counts()
        self._slots = Slots(max_sessions, wait_s, self._counts)
        self._most_spares = spares
        self._spares: list[Kernel] = []
        self._sessions: set[JupyterSession] = set()
        self._level: IsolationLevel | None = None
        self._make: Maker | None = None
        self._context: Any = None

    @property
    def isolation(self) -> IsolationLevel:
        """`standard` in bubblewrap, else `none`."""
        return self._level or "none"

    async def open(self) -> None:
        """Find interpreter and bubblewrap, and prove on a first kernel that they work together.

        Raises SandboxUnavailable with the remedy. Opening an open pool does nothing.
        """
        if self._level is not None:
            return
        if sys.platform != "linux":
            raise SandboxUnavailable(
                "the jupyter sandbox needs Linux: run agentrl in a container, or set sandbox=none"
            )
        try:
            # A second or so of imports, which must not stop the loop.
            await asyncio.to_thread(importlib.import_module, f"{__package__}.session")
        except ImportError as error:
            raise SandboxUnavailable(
                "the jupyter sandbox needs jupyter-client: pip install 'agentrl-framework[jupyter]'"
            ) from error
        survey = await surveyed(self._python)
        bwrap = shutil.which(_BWRAP) if self._most != "none" else None
        level: IsolationLevel = "standard" if bwrap else "none"
        self._check(level, "there is no bubblewrap: `apt-get install bubblewrap`")
        await asyncio.to_thread(sweep)
        if bwrap:
            self._make = functools.partial(bubbled, survey, limits=self._limits, bwrap=bwrap)
        else:
            self._make = functools.partial(bare, survey, limits=self._limits)
            _log.warning(
                "jupyter without bubblewrap: MODEL CODE RUNS WITHOUT ANY ISOLATION, as this user, "
                "with your files and your network"
            )
        import zmq.asyncio

        self._context = zmq.asyncio.Context()
        # A kernel that promises a message of any length must not make us set aside the memory.
        self._context.setsockopt(zmq.MAXMSGSIZE, _MESSAGE_BYTES)
        self._level = level
        try:
            self._spares.append(await self._fresh())
        except SandboxError as error:
            await self.close()
            self._check("none", f"bubblewrap cannot be used here ({error})", level)
        except BaseException:
            await self.close()
            raise

    def _check(self, level: IsolationLevel, why: str, tried: IsolationLevel | None = None) -> None:
        if tried is None and LEVELS.index(level) >= LEVELS.index(self._least):
            return
        raise SandboxUnavailable(
            f"sandbox isolation {self._least!r} is not available for kernels here: {why}; allow "
            "unprivileged user namespaces where they are refused, use sandbox=local, or set "
            "max_isolation=none and min_isolation=none to run without isolation"
        )

    async def acquire(self) -> JupyterSession:
        """Lease a fresh kernel, waiting for a slot if all are taken. Raises SandboxError."""
        from agentrl_sandbox.jupyter.session import JupyterSession, Terms

        if self._level is None:
            raise SandboxError("the sandbox pool is not open")
        asked = time.monotonic()
        await self._slots.take()
        try:
            kernel = await self._take()
        except BaseException:
            self._slots.give_back()
            raise
        terms = Terms(
            limits=self._limits,
            isolation=self.isolation,
            take=self._take,
            counts=self._counts,
            released=self._release,
        )
        session = JupyterSession(terms, kernel, time.monotonic() - asked)
        self._sessions.add(session)
        return session

    def _release(self, session: JupyterSession) -> None:
        self._sessions.discard(session)
        self._slots.give_back()

    async def _take(self) -> Kernel:
        """A ready kernel, started ahead if possible. Raises SandboxError after three attempts."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._fresh()
            except SandboxError as error:
                if self._level is None:
                    raise
                _log.warning("attempt %d of %d failed: %s", attempt, _ATTEMPTS, error)
        return await self._fresh()

    async def _fresh(self) -> Kernel:
        while self._spares and self._spares[0].has_ended():
            await self._spares.pop(0).close()
        kernel = self._spares.pop(0) if self._spares else await self._started()
        try:
            # Started now, they get ready while this one is in use; nobody waits for them.
            while len(self._spares) < self._most_spares:
                self._spares.append(await self._started())
            await kernel.ready()
        except BaseException:
            await asyncio.shield(kernel.close())
            raise
        return kernel

    async def _started(self) -> Kernel:
        from agentrl_sandbox.jupyter.kernel import Kernel

        if self._make is None or self._level is None:
            raise SandboxError("the sandbox pool is closed")
        return await Kernel.start(self._make, self._limits, self._context)

    async def close(self) -> None:
        """End every session and kernel. Idempotent."""
        self._level = None
        async with asyncio.TaskGroup() as group:
            for session in list(self._sessions):
                group.create_task(session.close())
            for kernel in self._spares:
                group.create_task(kernel.close())
        self._spares = []
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)

    def statistics(self) -> PoolStatistics:
        """Counts for metrics."""
        return self._slots.statistics(open_sessions=len(self._sessions), spares=len(self._spares))
