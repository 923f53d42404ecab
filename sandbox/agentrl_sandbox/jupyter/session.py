"""A leased kernel, replaced when it had to be killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, IsolationLevel, SandboxLimits
from agentrl_sandbox.child import Exit
from agentrl_sandbox.conversation import Ending
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.jupyter.kernel import Kernel
from agentrl_sandbox.jupyter.talk import Talk
from agentrl_sandbox.quota import exceeds
from agentrl_sandbox.verdict import Course, Overdue, error_of, status_of, status_of_exit

_GRACE_S = 1.0
"""Between the interrupt at the deadline and the kill; a message takes longer than a signal."""
_LOOK_S = 0.02
_WORD_S = 0.5


@dataclass(frozen=True, slots=True)
class Terms:
    """What every session of a pool has in common."""

    limits: SandboxLimits
    isolation: IsolationLevel
    take: Callable[[], Awaitable[Kernel]]
    """Hands over a fresh, ready kernel; raises SandboxError."""
    counts: Counts
    released: Callable[[JupyterSession], None]
    """Gives the slot back; called once."""


class JupyterSession:
    """The `Sandbox` of this back end; made by a pool's `acquire`."""

    def __init__(self, terms: Terms, kernel: Kernel, waited_s: float) -> None:
        self._terms = terms
        self._kernel: Kernel | None = kernel
        self._lock = asyncio.Lock()
        self._waited_s = waited_s
        self._closed = False

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """Execute `code`; see the contract. `timeout_s` is seconds of wall time.

        At the deadline the kernel is interrupted; if it is not idle `_GRACE_S` later it is killed
        and its state is lost. Raises SandboxError when its guard was lost or the session is closed.
        """
        asked = time.monotonic()
        async with self._lock:
            if self._closed:
                raise SandboxError("this sandbox session is closed")
            died = await self._died_meanwhile() or self._unsendable(code)
            if died is not None:
                return died
            if self._kernel is None:
                self._kernel = await self._terms.take()
            queue_s = time.monotonic() - asked + self._waited_s
            self._waited_s = 0.0
            self._terms.counts.began()
            result = await self._execute(self._kernel, code, timeout_s, queue_s)
            self._terms.counts.ended(result)
            return result

    def _unsendable(self, code: str) -> ExecResult | None:
        try:
            code.encode()
        except UnicodeEncodeError as error:
            return ExecResult(
                "error", error=f"UnicodeEncodeError: {error}", isolation=self._terms.isolation
            )
        return None

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs; see `agentrl.sandbox.Interruptible`."""
        if self._lock.locked() and self._kernel is not None:
            self._kernel.interrupt()

    async def reset(self) -> None:
        """Forget all state; see the contract."""
        async with self._lock:
            await self._discard()

    async def close(self) -> None:
        """Kill the kernel and give the slot back. Idempotent; a run in flight ends at once."""
        if self._closed:
            return
        self._closed = True
        if self._kernel is not None:
            self._kernel.kill()
        try:
            async with self._lock:
                await self._discard()
        finally:
            self._terms.released(self)

    async def _discard(self) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            await kernel.close()

    async def _died_meanwhile(self) -> ExecResult | None:
        """What to answer when the kernel died since the last run; None: go on."""
        kernel = self._kernel
        if kernel is None or not kernel.has_ended():
            return None
        exit_ = kernel.exited.result()
        await self._discard()
        self._terms.counts.replaced()
        if exit_ is None:
            if kernel.runs:
                raise SandboxError("the kernel was lost between two runs, and all state with it")
            return None
        return ExecResult(
            status=status_of_exit(exit_),
            error="the kernel ended after the previous run and was replaced",
            exit_code=exit_.exit_code,
            signal=exit_.signal,
            isolation=self._terms.isolation,
            state_lost=True,
        )

    async def _execute(
        self, kernel: Kernel, code: str, timeout_s: float, queue_s: float
    ) -> ExecResult:
        limits = self._terms.limits
        talk = Talk(kernel, limits.output_bytes)
        cpu_before = kernel.cpu_s()
        kernel.runs += 1
        clean = False
        try:
            kernel.freeze(False)
            with talk:
                course = await self._watch(kernel, talk, code, timeout_s)
                clean = course.ending == "done"
                if clean:
                    kernel.freeze(True)
                else:
                    kernel.kill()
                talk.finish()
        finally:
            # Also when this task is cancelled: code that nobody waits for must not run on.
            if not clean:
                kernel.kill()
                self._terms.counts.replaced()
        cpu_s, peak_mb = kernel.cpu_s() - cpu_before, kernel.peak_rss_mb()
        exit_ = None
        if not clean:
            exit_ = await self._last_of(kernel)
            cpu_s, peak_mb = exit_.cpu_s - cpu_before, exit_.peak_rss_mb
        reply = talk.reply()
        return ExecResult(
            status=status_of(course, reply, exit_),
            stdout=talk.stdout.text(),
            stderr=talk.stderr.text(),
            value=reply.value if clean else None,
            error=error_of(course, reply, timeout_s, limits),
            exit_code=exit_.exit_code if exit_ else None,
            signal=exit_.signal if exit_ else None,
            wall_s=course.wall_s,
            cpu_s=max(cpu_s, 0.0),
            queue_s=queue_s,
            peak_rss_mb=peak_mb,
            stdout_dropped=talk.stdout.dropped,
            stderr_dropped=talk.stderr.dropped,
            isolation=self._terms.isolation,
            state_lost=not clean,
        )

    async def _last_of(self, kernel: Kernel) -> Exit:
        """Bury a kernel and say how it ended. Raises SandboxError when nobody can tell."""
        await self._discard()
        exit_ = kernel.exited.result()
        if exit_ is None:
            raise SandboxError("the kernel was lost while the code ran")
        return exit_

    async def _watch(self, kernel: Kernel, talk: Talk, code: str, timeout_s: float) -> Course:
        began = time.monotonic()
        overdue: Overdue | None = None
        async with asyncio.TaskGroup() as group:
            talking = group.create_task(talk.run(code))
            breach = group.create_task(self._breach(kernel, talk))
            ending = await _first(talking, breach, kernel, timeout_s)
            if ending in (None, "cpu"):
                overdue = "timeout" if ending is None else "cpu_limit"
                kernel.interrupt()
                ending = await _first(talking, None, kernel, _GRACE_S)
            talking.cancel()
            breach.cancel()
        wall_s = time.monotonic() - began
        return Course("broken" if ending is None or ending == "cpu" else ending, overdue, wall_s)

    async def _breach(self, kernel: Kernel, talk: Talk) -> Ending | Literal["cpu"]:
        """Wait until the code exceeds a limit that only we can measure."""
        limits = self._terms.limits
        cpu_end = None if limits.cpu_s is None else kernel.cpu_s() + limits.cpu_s
        while True:
            await asyncio.wait({talk.flooded}, timeout=_LOOK_S)
            if talk.flooded.done():
                return "flood"
            if kernel.cut_off():
                # A death shows here first: the guard's word on how follows within moments.
                await asyncio.wait({kernel.exited}, timeout=_WORD_S)
                return "broken"
            if cpu_end is not None and kernel.cpu_s() > cpu_end:
                return "cpu"
            folder = kernel.work
            if folder and await asyncio.to_thread(exceeds, folder, limits.disk_mb << 20):
                return "disk"


async def _first(
    talking: asyncio.Task[Ending],
    breach: asyncio.Task[Ending | Literal["cpu"]] | None,
    kernel: Kernel,
    timeout_s: float,
) -> Ending | Literal["cpu"] | None:
    """What ends the run within `timeout_s`; None: nothing."""
    waited: set[asyncio.Future[Any]] = {
        future for future in (talking, breach, kernel.exited) if future is not None
    }
    await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if talking.done() and talking.result() == "done":
        return "done"
    if kernel.exited.done():
        return "exited"
    if breach is not None and breach.done():
        return breach.result()
    return talking.result() if talking.done() else None
