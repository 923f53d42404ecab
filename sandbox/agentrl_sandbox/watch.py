"""The bounds of one run in time and on disk, kept from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from agentrl.sandbox import SandboxLimits
from agentrl_sandbox.child import Child
from agentrl_sandbox.conversation import Conversation, send_all, send_now
from agentrl_sandbox.inside import wire
from agentrl_sandbox.quota import exceeds
from agentrl_sandbox.verdict import Course, Overdue

GRACE_S = 0.5
"""Between the interrupt at the deadline and the kill."""
_POLL_S = 0.025
_CPU_POLL_S = 0.005


class Watch:
    """One run of a child. `graceful`: at a deadline it is interrupted and may still answer."""

    def __init__(
        self, child: Child, talk: Conversation, limits: SandboxLimits, graceful: bool
    ) -> None:
        self._child = child
        self._talk = talk
        self._limits = limits
        self._graceful = graceful
        self.kills_before = 0
        """How often the kernel had killed in the child's cgroup when the run began."""

    async def until_end(self, code: str, timeout_s: float) -> Course:
        """Hand the code over and wait for whatever ends the run, interrupting it at its deadline."""
        child, talk = self._child, self._talk
        began = time.monotonic()
        left = send_now(child.control, wire.request(talk.nonce, code))
        child.thaw()
        # Read beside the run, whose first moments cannot use its memory up.
        self.kills_before = child.oom_kills()
        if not left and not child.kin.folder:
            # The usual case: a task for nothing would take a third of a short run.
            overdue = await self._time_out(timeout_s)
        else:
            overdue = await self._time_out_beside_helpers(left, timeout_s)
        if child.kin.folder and talk.ending is not None and await self._too_big():
            return Course("disk", overdue, time.monotonic() - began)
        return Course(talk.ending or "broken", overdue, time.monotonic() - began)

    async def _time_out_beside_helpers(self, left: bytes, timeout_s: float) -> Overdue | None:
        """The same, while the rest of the code is sent and the work folder is measured."""
        child = self._child
        async with asyncio.TaskGroup() as group:
            helpers: list[asyncio.Task[None]] = []
            if left:
                helpers.append(group.create_task(send_all(child.control, left)))
            if child.kin.folder:
                helpers.append(group.create_task(self._guard_disk()))
            overdue = await self._time_out(timeout_s)
            for task in helpers:
                task.cancel()
        return overdue

    async def _time_out(self, timeout_s: float) -> Overdue | None:
        """Wait for the end of a run or of its time; which time ran out first, if one did."""
        overdue = await self._which_ran_out(timeout_s)
        if overdue and self._graceful:
            self._child.send_signal(signal.SIGINT)
            await self._talk.wait(GRACE_S)
        return overdue

    async def _which_ran_out(self, timeout_s: float) -> Overdue | None:
        child, talk = self._child, self._talk
        deadline = time.monotonic() + timeout_s
        cpu_s = self._limits.cpu_s
        cpu_end = None if cpu_s is None else child.cpu_s() + cpu_s
        while talk.ending is None:
            pause_s = deadline - time.monotonic()
            if pause_s <= 0:
                return "timeout"
            if cpu_end is not None:
                unspent_s = cpu_end - child.cpu_s()
                if unspent_s <= 0:
                    return "cpu_limit"
                # Threads on all cores cannot use it up sooner.
                pause_s = min(pause_s, max(unspent_s / (os.cpu_count() or 1), _CPU_POLL_S))
            await talk.wait(pause_s)
        return None

    async def _guard_disk(self) -> None:
        pause_s = _POLL_S
        while True:
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            if await self._too_big():
                self._talk.end("disk")
            # Looking at a large folder must not become the main work.
            pause_s = min(max(_POLL_S, 5 * (time.monotonic() - began)), 4 * _POLL_S)

    async def _too_big(self) -> bool:
        limit = self._limits.disk_mb << 20
        kin = self._child.kin
        if await asyncio.to_thread(exceeds, kin.folder, limit * kin.members, kin.members):
            return True
        return self._child.open_files_bytes() > limit
