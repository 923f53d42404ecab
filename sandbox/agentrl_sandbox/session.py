"""A leased interpreter: one child at a time, replaced when it had to be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import ExecResult, IsolationLevel, SandboxLimits
from agentrl_sandbox.child import Child, Exit
from agentrl_sandbox.conversation import Conversation
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.inside import wire
from agentrl_sandbox.verdict import error_of, status_of, status_of_exit
from agentrl_sandbox.watch import Watch

MAX_CODE = 32 << 20
"""Characters of one piece of code; more is refused."""
_REAP_S = 10.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What every session of a pool has in common."""

    limits: SandboxLimits
    isolation: IsolationLevel
    max_cells: int | None
    """Runs that one session may have."""
    spawn: Callable[[], Awaitable[Child]]
    """Makes a confined, ready child; raises SandboxError."""
    copy: Callable[[Child, int], Awaitable[list[Session]]]
    """Makes sessions of copies of a child; raises SandboxError."""
    counts: Counts
    running: Callable[[], AbstractContextManager[None]]
    """Held while code runs."""
    released: Callable[[Session], None]
    """Forgets the session and gives its slot back; called once."""


class Session:
    """The `Sandbox` of this back end; made by a pool's `acquire`."""

    def __init__(
        self, terms: Terms, child: Child, waited_s: float = 0.0, *, copied: bool = False
    ) -> None:
        self.copied = copied
        """Made by `fork`, so it takes no slot of the pool."""
        self._terms = terms
        self._child: Child | None = child
        self._lock = asyncio.Lock()
        self._closed = ""
        self._waited_s = waited_s
        self._used = time.monotonic()
        self._cells = 0
        self._lasting = True

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """Execute `code`; see the contract. `timeout_s` is seconds of wall time.

        At the deadline the code is interrupted; if it does not yield within half a second it is killed
        and its state is lost. The first run's `queue_s` holds the wait for the lease too. Raises
        SandboxError when the box was lost or is closed, UserError when `timeout_s` is not positive.
        """
        if not timeout_s > 0:
            raise UserError(f"timeout_s={timeout_s}: give the code a positive number of seconds")
        asked = time.monotonic()
        async with self._lock:
            if self._closed:
                raise SandboxError(self._closed)
            self._cells += 1
            result = await self._answer(code, timeout_s, asked)
            self._terms.counts.ended(result)
            self._used = time.monotonic()
            return result

    async def _answer(self, code: str, timeout_s: float, asked: float) -> ExecResult:
        most = self._terms.max_cells
        if most is not None and self._cells > most:
            return self._refused(f"this session has had the {most} runs that it may have")
        if len(code) > MAX_CODE:
            return self._refused(f"the code has {len(code)} characters, at most {MAX_CODE} are run")
        died = await self._died_meanwhile()
        if died is not None:
            return died
        if self._child is None:
            self._child = await self._terms.spawn()
        self._terms.counts.began()
        queue_s = time.monotonic() - asked + self._waited_s
        self._waited_s = 0.0
        with self._terms.running():
            return await self._execute(self._child, code, timeout_s, queue_s)

    async def fork(self, n: int) -> list[Session]:
        """`n` sessions that go on from this one's present state, each on its own.

        Variables, open files and the work folder are copied; random numbers are drawn anew; ending
        this session does not end the copies. They take no slots of the pool, so this never waits for
        other sessions; `PoolStatistics.copies` says how many there are. Raises SandboxError when the
        code left threads behind or the machine cannot do it, and UserError for a negative `n`.
        """
        if n < 0:
            raise UserError(f"fork({n}): ask for a number of copies from 0 on")
        async with self._lock:
            if self._closed:
                raise SandboxError(self._closed)
            if n == 0:
                return []
            if self._child is not None and self._child.has_ended():
                raise SandboxError("the interpreter ended after the previous run, with all state")
            if self._child is None:
                self._child = await self._terms.spawn()
            self._used = time.monotonic()
            self._child.freeze()
            return await self._terms.copy(self._child, n)

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs; see `agentrl.sandbox.Interruptible`."""
        if self._lock.locked() and self._child is not None:
            self._child.send_signal(signal.SIGINT)

    def _refused(self, why: str) -> ExecResult:
        return ExecResult("error", error=f"LimitError: {why}", isolation=self._terms.isolation)

    async def reset(self) -> None:
        """Forget all state; see the contract."""
        async with self._lock:
            await self._discard()

    async def close(self) -> None:
        """Kill the child and give the slot back. Idempotent; a run in flight ends at once."""
        await self._end("this sandbox session is closed")

    async def expire(self) -> None:
        """Close a session that nobody used for too long; a later run is told so."""
        await self._end(
            f"this sandbox session was closed after {self.idle_s():.0f} s without a run, and its "
            "state is gone; raise the pool's idle_s if episodes pause for longer"
        )

    async def _end(self, why: str) -> None:
        if self._closed:
            return
        self._closed = why
        self.hang_up()
        try:
            async with self._lock:
                await self._discard()
        finally:
            self._terms.released(self)

    def idle_s(self) -> float:
        """Seconds since the last run ended; 0 while one is under way."""
        return 0.0 if self._lock.locked() else time.monotonic() - self._used

    def single_use(self) -> None:
        """From now on an interpreter that has run once is killed, and a late one without grace."""
        self._lasting = False

    def hang_up(self) -> None:
        """Kill the child at once; `close` does the rest."""
        if self._child is not None:
            self._child.kill()

    async def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.close(_REAP_S)

    async def _died_meanwhile(self) -> ExecResult | None:
        """What to answer when the child died since the last run; None: go on."""
        child = self._child
        if child is None or not child.has_ended():
            return None
        await asyncio.wait({child.exited}, timeout=_REAP_S)
        exit_ = child.exited.result() if child.exited.done() else None
        await self._discard()
        self._terms.counts.replaced()
        if exit_ is None:
            if child.runs:
                raise SandboxError("the sandbox was lost between two runs, and all state with it")
            return None
        return ExecResult(
            status=status_of_exit(exit_),
            error="the interpreter ended after the previous run and was replaced",
            exit_code=exit_.exit_code,
            signal=exit_.signal,
            isolation=self._terms.isolation,
            state_lost=True,
        )

    async def _execute(
        self, child: Child, code: str, timeout_s: float, queue_s: float
    ) -> ExecResult:
        keep = self._terms.limits.output_bytes
        talk = Conversation(child, nonce=os.urandom(wire.NONCE_BYTES), keep_bytes=keep)
        watch = Watch(child, talk, self._terms.limits, self._lasting)
        cpu_before = child.cpu_s()
        child.runs += 1
        clean = False
        try:
            with talk:
                course = await watch.until_end(code, timeout_s)
                clean = course.ending == "done"
                if clean and self._lasting:
                    child.freeze_soon()
                elif not clean:
                    child.kill()
                talk.finish()
        finally:
            # Also when this task is cancelled: code that nobody waits for must not run on.
            if not clean:
                child.kill()
                self._terms.counts.replaced()
        exit_ = None
        if not clean:
            exit_ = await self._last_of(child)
            course = replace(course, out_of_memory=child.oom_kills() > watch.kills_before)
        cpu_s = (exit_.cpu_s if exit_ else child.cpu_s()) - cpu_before
        return ExecResult(
            status=status_of(course, talk.reply, exit_),
            stdout=talk.stdout.text(),
            stderr=talk.stderr.text(),
            value=talk.reply.value if clean and talk.reply else None,
            error=error_of(course, talk.reply, timeout_s, self._terms.limits),
            exit_code=exit_.exit_code if exit_ else None,
            signal=exit_.signal if exit_ else None,
            wall_s=course.wall_s,
            cpu_s=max(cpu_s, 0.0),
            queue_s=queue_s,
            peak_rss_mb=exit_.peak_rss_mb if exit_ else child.peak_rss_mb(),
            stdout_dropped=talk.stdout.dropped,
            stderr_dropped=talk.stderr.dropped,
            isolation=self._terms.isolation,
            state_lost=not clean and self._lasting,
        )

    async def _last_of(self, child: Child) -> Exit:
        """Bury a child and say how it ended. Raises SandboxError when nobody can tell."""
        await self._discard()
        exit_ = child.exited.result() if child.exited.done() else None
        if exit_ is None:
            raise SandboxError("the sandbox was lost while the code ran")
        return exit_
