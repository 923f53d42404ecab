"""The trusted side of the channel to one zygote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from agentrl.errors import SandboxError
from agentrl_sandbox import boot
from agentrl_sandbox.child import Child, Exit, Kin, peak_mb, pid_behind
from agentrl_sandbox.ends import Ends, make_ends
from agentrl_sandbox.expected import Delivery, Expected, settle
from agentrl_sandbox.inside.news import Answer, News
from agentrl_sandbox.inside.plan import Plan
from agentrl_sandbox.processes import Forked, Launched, Process

_START_S = 180.0
_FORK_S = 60.0
_END_S = 15.0
_HANDLES = 64
_Answered: TypeAlias = tuple[Answer, int | None] | None
"""An answer with its descriptor; None when the zygote was lost before."""


class Link:
    """One running zygote. Made by `Link.start`; lost for good when the process dies."""

    def __init__(self, process: Process, channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._pending = b""
        self._handles: list[int] = []
        self._expected = Expected()
        # Orders are answered one after the other; the first answer is the zygote's "ready".
        self._answers: deque[asyncio.Future[_Answered]] = deque([self._loop.create_future()])
        self._parts: list[Link] = []
        self.lost = False
        """Whether the zygote is gone; sessions of a lost zygote are dead or dying."""
        self._loop.add_reader(channel.fileno(), self._readable)

    @classmethod
    async def start(cls, plan: Plan, python: str | None) -> Link:
        """Start a zygote and wait until it is warm. Raises SandboxError with its last words."""
        near, far = socket.socketpair()
        with far:
            try:
                # A few milliseconds on the loop, but nothing is left over when this is cancelled.
                process = boot.start("launcher", str(far.fileno()), python=python, fd=far.fileno())
            except BaseException:
                near.close()
                raise
        near.setblocking(False)
        link = cls(Launched(process), near)
        near.send(plan.to_json().encode() + b"\n")
        return await link._welcomed()

    async def _welcomed(self) -> Link:
        """Itself, once the zygote says that it is ready. Raises SandboxError with its last words."""
        ready = self._answers[0]
        try:
            await asyncio.wait({ready}, timeout=_START_S)
        except asyncio.CancelledError:
            self.kill()
            await asyncio.shield(self.close())
            raise
        if not ready.done() or ready.result() is None:
            words = await self.close()
            raise SandboxError(f"the sandbox interpreter did not start: {words or 'no reason'}")
        self._process.hush()
        return self

    async def split(self, index: int) -> Link:
        """Another zygote, forked by this one and dying with it. Raises SandboxError.

        `index`: the number of the users that its sessions become.
        """
        near, far = socket.socketpair()
        try:
            self._check()
            order: dict[str, int | str] = {"op": "split", "session": 0, "index": index}
            with far:
                answer, pidfd = await self._ask(order, [far.fileno()])
            if answer["op"] != "split" or pidfd is None:
                raise SandboxError("the sandbox zygote cannot be doubled")
        except BaseException:
            near.close()
            raise
        near.setblocking(False)
        part = Link(Forked(pidfd, pid_behind(pidfd)), near)
        self._parts.append(part)
        return await part._welcomed()

    @property
    def pid(self) -> int:
        """Process id of the zygote, or of the launcher that guards it."""
        return self._process.pid

    def _readable(self) -> None:
        try:
            data, handles, _, _ = socket.recv_fds(self._channel, 65_536, _HANDLES)
        except BlockingIOError:
            return
        except OSError:
            data, handles = b"", []
        self._handles += handles
        if not data:
            self._lose()
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: News) -> None:
        match message["op"]:
            case "exit":
                peak = peak_mb(message["peak"], sys.platform)
                exit_ = Exit(message["status"], message["cpu_s"], peak)
                self._expected.ended(message["session"], exit_)
            case "born":
                # Descriptors arrive in the order of the lines that they belong to.
                self._expected.born(message, self._handles.pop(0))
            case "fit":
                self._expected.fit(message["session"])
            case _:
                handle = self._handles.pop(0) if self._handles else None
                asked = self._answers.popleft()
                if not asked.done():
                    asked.set_result((message, handle))
                elif handle is not None:
                    # Nobody waits any more. What was forked sees that its channels are closed.
                    os.close(handle)

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._channel.fileno())
        for asked in self._answers:
            settle(asked, None)
        self._expected.lose()
        for part in self._parts:
            part._lose()

    async def fork(self) -> Child:
        """A new session child, fence not yet confirmed. Raises SandboxError."""
        ends = make_ends(1)
        try:
            self._check()
            [delivery] = self._expected.sessions(1)
            order: dict[str, int | str] = {"op": "fork", "session": delivery.session}
            answer, pidfd = await self._ask_for(order, ends)
            if answer["op"] != "forked":
                self.forget([delivery])
                why = answer["why"] if answer["op"] == "refused" else "it answered nonsense"
                raise SandboxError(f"no session could be forked: {why}")
        except BaseException:
            ends[0].close_near()
            raise
        kin = Kin(self, answer["work"])
        return self.child(ends[0], kin, answer["pid"], pidfd, answer["work"], delivery)

    async def arm(self, session: int, ends: Sequence[Ends]) -> list[Delivery]:
        """Let a session make as many copies as there are `ends`, whose far halves are given away.

        Raises SandboxError when it cannot.
        """
        self._check()
        made = self._expected.copies(len(ends))
        try:
            answer, _ = await self._ask_for(
                {"op": "copy", "session": session, "first": made[0].session, "count": len(made)},
                ends,
            )
        except asyncio.CancelledError:
            self.call_off(session)
            self.forget(made)
            raise
        if answer["op"] != "armed":
            self.forget(made)
            why = answer["why"] if answer["op"] == "refused" else "it answered nonsense"
            raise SandboxError(f"this session cannot be copied: {why}")
        return made

    def call_off(self, session: int) -> None:
        """End the wait for copies; those that have not shown up die, and the session with them."""
        with contextlib.suppress(SandboxError):
            self._order({"op": "call_off", "session": session}, [])

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """Expect nothing of these any more."""
        self._expected.forget(deliveries)

    def child(
        self, ends: Ends, kin: Kin, pid: int, pidfd: int | None, work: str, delivery: Delivery
    ) -> Child:
        """The handle on a process that the zygote told of."""
        session = delivery.session
        return Child(
            ends,
            kin,
            session=session,
            work=work,
            pid=pid,
            pidfd=pidfd,
            fallback=lambda number: self._signal(session, number),
            exited=delivery.exited,
        )

    def _check(self) -> None:
        if self.lost:
            raise SandboxError("the sandbox zygote is gone")

    async def _ask_for(
        self, order: dict[str, int | str], ends: Sequence[Ends]
    ) -> tuple[Answer, int | None]:
        """Give the far halves of channels away with an order."""
        try:
            return await self._ask(order, [fd for end in ends for fd in end.far])
        finally:
            for end in ends:
                end.close_far()

    async def _ask(
        self, order: dict[str, int | str], descriptors: list[int]
    ) -> tuple[Answer, int | None]:
        """Send an order and wait for the answer. Raises SandboxError.

        Who is cancelled here leaves an answer that nobody takes, which does no harm.
        """
        asked: asyncio.Future[_Answered] = self._loop.create_future()
        self._order(order, descriptors)
        self._answers.append(asked)
        try:
            async with asyncio.timeout(_FORK_S):
                answer = await asked
        except TimeoutError as error:
            # Half a fork may be under way: only a new zygote is in a known state.
            self.kill()
            raise SandboxError("the sandbox zygote does not answer") from error
        if answer is None:
            raise SandboxError("the sandbox zygote died")
        return answer

    def _order(self, message: dict[str, int | str], descriptors: list[int]) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            socket.send_fds(self._channel, [line], descriptors)
        except OSError as error:
            raise SandboxError(f"the sandbox zygote does not listen: {error}") from error

    def _signal(self, session: int, number: int) -> None:
        with contextlib.suppress(SandboxError):
            self._order({"op": "signal", "session": session, "signal": number}, [])

    def kill(self) -> None:
        """End the zygote at once; its sessions die with it."""
        self._process.kill()
        self._lose()

    async def close(self) -> str:
        """Hang up, wait for the end, and return what it said on stderr. Idempotent."""
        self._lose()
        self._channel.close()
        for handle in self._handles:
            os.close(handle)
        self._handles.clear()
        return await asyncio.to_thread(self._process.bury, _END_S)
