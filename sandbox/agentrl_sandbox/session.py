"""A leased interpreter: one child at a time, replaced when it had to be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, ExecStatus, IsolationLevel, SandboxLimits
from agentrl_sandbox.child import Child, Exit
from agentrl_sandbox.conversation import Conversation, Ending, send_all, send_now
from agentrl_sandbox.inside import wire
from agentrl_sandbox.quota import exceeds

GRACE_S = 0.5
"""Between the interrupt at the deadline and the kill."""
_REAP_S = 10.0
_POLL_S = 0.025


@dataclass(frozen=True, slots=True)
class Terms:
    """What every session of a pool has in common."""

    limits: SandboxLimits
    isolation: IsolationLevel
    spawn: Callable[[], Awaitable[Child]]
    """Makes a confined, ready child; raises SandboxError."""
    ran: Callable[[], None]
    """Counts a run."""
    replaced: Callable[[], None]
    """Counts a child that was lost."""
    released: Callable[[Session], None]
    """Gives the slot back; called once."""


@dataclass(frozen=True, slots=True)
class _Course:
    """How one run went, before it is put into words."""

    ending: Ending
    timed_out: bool
    wall_s: float


class Session:
    """The `Sandbox` of this back end; made by a pool's `acquire`."""

    def __init__(self, terms: Terms, child: Child) -> None:
        self._terms = terms
        self._child: Child | None = child
        self._lock = asyncio.Lock()
        self._closed = False

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """Execute `code`; see the contract. `timeout_s` is seconds of wall time.

        At the deadline the code is interrupted; if it does not yield within `GRACE_S` it is killed
        and its state is lost. Raises SandboxError when the box was lost or is closed.
        """
        asked = time.monotonic()
        async with self._lock:
            if self._closed:
                raise SandboxError("this sandbox session is closed")
            died = await self._died_meanwhile()
            if died is not None:
                return died
            if self._child is None:
                self._child = await self._terms.spawn()
            self._terms.ran()
            queue_s = time.monotonic() - asked
            return await self._execute(self._child, code, timeout_s, queue_s)

    async def reset(self) -> None:
        """Forget all state; see the contract."""
        async with self._lock:
            await self._discard()

    async def close(self) -> None:
        """Kill the child and give the slot back. Idempotent; a run in flight ends at once."""
        if self._closed:
            return
        self._closed = True
        if self._child is not None:
            self._child.kill()
        try:
            async with self._lock:
                await self._discard()
        finally:
            self._terms.released(self)

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
        self._terms.replaced()
        if exit_ is None:
            if child.runs:
                raise SandboxError("the sandbox was lost between two runs, and all state with it")
            return None
        return ExecResult(
            status=_status_of(exit_),
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
        cpu_before = child.cpu_s()
        child.runs += 1
        clean = False
        try:
            child.freeze(False)
            with talk:
                course = await self._watch(child, talk, code, timeout_s)
                clean = course.ending == "done"
                if clean:
                    child.freeze(True)
                else:
                    child.kill()
                talk.finish()
        finally:
            # Also when this task is cancelled: code that nobody waits for must not run on.
            if not clean:
                child.kill()
                self._terms.replaced()
        exit_ = None
        if not clean:
            exit_ = await self._last_of(child)
        cpu_s = (exit_.cpu_s if exit_ else child.cpu_s()) - cpu_before
        peak = exit_.peak_rss_mb if exit_ else child.peak_rss_mb()
        return ExecResult(
            status=_status(course, talk, exit_),
            stdout=talk.stdout.text(),
            stderr=talk.stderr.text(),
            value=talk.reply.value if clean and talk.reply else None,
            error=_error(course, talk, timeout_s, self._terms.limits),
            exit_code=exit_.exit_code if exit_ else None,
            signal=exit_.signal if exit_ else None,
            wall_s=course.wall_s,
            cpu_s=max(cpu_s, 0.0),
            queue_s=queue_s,
            peak_rss_mb=peak,
            stdout_dropped=talk.stdout.dropped,
            stderr_dropped=talk.stderr.dropped,
            isolation=self._terms.isolation,
            state_lost=not clean,
        )

    async def _last_of(self, child: Child) -> Exit:
        """Bury a child and say how it ended. Raises SandboxError when nobody can tell."""
        await self._discard()
        exit_ = child.exited.result() if child.exited.done() else None
        if exit_ is None:
            raise SandboxError("the sandbox was lost while the code ran")
        return exit_

    async def _watch(
        self, child: Child, talk: Conversation, code: str, timeout_s: float
    ) -> _Course:
        began = time.monotonic()
        left = send_now(child.control, wire.request(talk.nonce, code))
        async with asyncio.TaskGroup() as group:
            helpers: list[asyncio.Task[None]] = []
            if left:
                helpers.append(group.create_task(send_all(child.control, left)))
            if child.work:
                helpers.append(group.create_task(self._guard_disk(child, talk)))
            await asyncio.wait({talk.ended}, timeout=timeout_s)
            timed_out = not talk.ended.done()
            if timed_out:
                child.send_signal(signal.SIGINT)
                await asyncio.wait({talk.ended}, timeout=GRACE_S)
            for task in helpers:
                task.cancel()
        if child.work and talk.ended.done() and await self._too_big(child):
            return _Course("disk", timed_out, time.monotonic() - began)
        ending = talk.ended.result() if talk.ended.done() else "broken"
        return _Course(ending, timed_out, time.monotonic() - began)

    async def _guard_disk(self, child: Child, talk: Conversation) -> None:
        pause_s = _POLL_S
        while True:
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            if await self._too_big(child):
                talk.end("disk")
            # Looking at a large folder must not become the main work.
            pause_s = min(max(_POLL_S, 5 * (time.monotonic() - began)), 4 * _POLL_S)

    async def _too_big(self, child: Child) -> bool:
        limit = self._terms.limits.disk_mb << 20
        if await asyncio.to_thread(exceeds, child.work, limit):
            return True
        return child.open_files_bytes() > limit


def _status_of(exit_: Exit) -> ExecStatus:
    if exit_.signal == signal.SIGXCPU:
        return "cpu_limit"
    return "exited" if exit_.signal is None else "signal"


def _status(course: _Course, talk: Conversation, exit_: Exit | None) -> ExecStatus:
    if course.ending in ("flood", "disk"):
        return "output_limit"
    if course.timed_out:
        return "timeout"
    if course.ending == "broken":
        return "error"
    if exit_ is not None:
        return _status_of(exit_)
    return "ok" if talk.reply is not None and talk.reply.kind == wire.OK else "error"


def _error(
    course: _Course, talk: Conversation, timeout_s: float, limits: SandboxLimits
) -> str | None:
    if course.ending == "disk":
        return f"the work folder grew beyond {limits.disk_mb} MB"
    if course.ending == "flood":
        return "the output grew beyond all bounds"
    if course.timed_out:
        return f"TimeoutError: the code did not finish within {timeout_s:g} s"
    if course.ending == "broken":
        return "the code broke the interpreter's control channel"
    return talk.reply.error if course.ending == "done" and talk.reply else None
