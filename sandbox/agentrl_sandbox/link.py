"""The trusted side of the channel to one zygote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess

from agentrl.errors import SandboxError
from agentrl_sandbox import boot
from agentrl_sandbox.child import Child, Ends, Exit
from agentrl_sandbox.inside.news import Answer, News
from agentrl_sandbox.inside.plan import Plan

_START_S = 60.0
_FORK_S = 20.0
_END_S = 15.0
_STDERR_BYTES = 4000


class Link:
    """One running zygote. Made by `Link.start`; lost for good when the process dies."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._pending = b""
        self._handles: list[int] = []
        self._exits: dict[int, asyncio.Future[Exit | None]] = {}
        self._answer: asyncio.Future[Answer | None] = self._loop.create_future()
        self._busy = asyncio.Lock()
        self._next = 0
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
        link = cls(process, near)
        near.send(plan.to_json().encode() + b"\n")
        try:
            await asyncio.wait({link._answer}, timeout=_START_S)
        except asyncio.CancelledError:
            link.kill()
            await asyncio.shield(link.close())
            raise
        if not link._answer.done() or link._answer.result() is None:
            words = await link.close()
            raise SandboxError(f"the sandbox interpreter did not start: {words or 'no reason'}")
        link._hush()
        return link

    def _hush(self) -> None:
        """Nothing is expected on these any more, and a full pipe must not stop the zygote."""
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _readable(self) -> None:
        try:
            data, handles, _, _ = socket.recv_fds(self._channel, 65_536, 64)
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
        if message["op"] == "exit":
            future = self._exits.pop(message["session"], None)
            if future is not None and not future.done():
                kilobytes = message["peak"]
                future.set_result(Exit(message["status"], message["cpu_s"], kilobytes / 1024))
        elif not self._answer.done():
            self._answer.set_result(message)

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._channel.fileno())
        if not self._answer.done():
            self._answer.set_result(None)
        for future in self._exits.values():
            if not future.done():
                future.set_result(None)
        self._exits.clear()

    async def fork(self) -> Child:
        """A new session child, fence not yet confirmed. Raises SandboxError."""
        async with self._busy:
            if self.lost:
                raise SandboxError("the sandbox zygote is gone")
            ends = _make_ends()
            session, self._next = self._next, self._next + 1
            exited: asyncio.Future[Exit | None] = self._loop.create_future()
            self._exits[session] = exited
            self._answer = self._loop.create_future()
            try:
                self._order({"op": "fork", "session": session}, list(ends.far))
                answer = await self._answered()
            except BaseException:
                # Half a fork may be under way: only a new zygote is in a known state.
                self._abandon(session, ends)
                raise
            ends.close_far()
        if answer["op"] == "refused":
            self._exits.pop(session, None)
            ends.close_near()
            raise SandboxError(f"no session could be forked: {answer['why']}")
        assert answer["op"] == "forked"
        pidfd = self._handles.pop(0) if self._handles else None
        return Child(
            ends,
            pid=answer["pid"],
            pidfd=pidfd,
            work=answer["work"],
            fallback=lambda number: self._signal(session, number),
            exited=exited,
        )

    def _abandon(self, session: int, ends: Ends) -> None:
        self._exits.pop(session, None)
        ends.close_far()
        ends.close_near()
        self.kill()

    async def _answered(self) -> Answer:
        try:
            async with asyncio.timeout(_FORK_S):
                answer = await self._answer
        except TimeoutError as error:
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
        return await asyncio.to_thread(self._bury)

    def _bury(self) -> str:
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        words = b""
        if self._process.stderr is not None and not self._process.stderr.closed:
            os.set_blocking(self._process.stderr.fileno(), False)
            words = self._process.stderr.read(1 << 20) or b""
        self._hush()
        return words.decode("utf-8", "replace").strip()[-_STDERR_BYTES:]


def _make_ends() -> Ends:
    try:
        return Ends.make()
    except OSError as error:
        raise SandboxError(f"no descriptors left for another session: {error}") from error
