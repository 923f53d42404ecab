"""The zygote: one single-threaded warm interpreter that forks a child per session.

It lives in namespaces of its own where the machine allows, runs no model code, and dies when the
trusted side hangs up.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import selectors
import signal
import socket
import types
from dataclasses import dataclass

from agentrl_sandbox.inside import kernel, life, pages, privileges
from agentrl_sandbox.inside.channel import Channel
from agentrl_sandbox.inside.family import Birth, Family, Order
from agentrl_sandbox.inside.housing import Housing
from agentrl_sandbox.inside.judge import Judge
from agentrl_sandbox.inside.plan import Plan
from agentrl_sandbox.inside.warm import warm_up

_DESCRIPTORS = 65_536
"""More than a process has."""


@dataclass(frozen=True, slots=True)
class _Child:
    session: int
    family: Family


class Zygote:
    """Forks, reaps and reports until the channel closes."""

    def __init__(self, channel: socket.socket, plan: Plan, how: str | None, base: str) -> None:
        self._channel = Channel(channel)
        self._plan = plan
        self._housing = Housing(plan, how, base)
        self._judge: Judge | None = None
        self._children: dict[int, _Child] = {}
        self._memory_mb = 0.0
        self._open()

    def _open(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._nursery, self._nursery_far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._nursery.setblocking(False)

    def prepare(self) -> None:
        """Warm up, then move into the private file tree. Raises OSError or RuntimeError."""
        if self._plan.warm:
            warm_up()
        if kernel.LINUX and len(os.listdir("/proc/self/task")) != 1:
            raise RuntimeError("the warm interpreter started threads and cannot fork safely")
        self._memory_mb = privileges.address_space_mb()
        if kernel.LINUX:
            # While there is a /proc to read from.
            gc.collect()
            pages.gather()
        self._housing.prepare()
        if self._plan.filtered:
            proc = self._housing.proc
            self._judge = Judge(proc, self._plan.namespaces, self._born, self._fit)
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """The loop. Returns when the trusted side has hung up and every child is dead."""
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, _noted)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._channel.send({"op": "ready", "threads": 1, "uid": self._housing.first_user})
        selector = self._selector
        for source in (self._channel.socket, self._nursery, reader):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._channel.socket:
                    if not self._receive():
                        return
                elif key.fileobj is self._nursery:
                    self._welcome()
                elif isinstance(key.data, Family):
                    self._hear(key.data)
                else:
                    os.read(reader, 4096)
            self._reap()

    def _welcome(self) -> None:
        """Take the listeners of filters that children have put up."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._nursery, 64, 1)
                child = self._children.get(int(data))
                for fd in descriptors:
                    if child is None or child.family.asking is not None:
                        os.close(fd)
                        continue
                    child.family.asking = fd
                    self._selector.register(fd, selectors.EVENT_READ, child.family)

    def _hear(self, family: Family) -> None:
        if family.asking is not None and self._judge is not None:
            self._judge.hear(family)

    def end(self) -> None:
        """Kill and reap every child."""
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _receive(self) -> bool:
        orders = self._channel.receive()
        for order in orders or []:
            self._obey(order)
        return orders is not None

    def _obey(self, order: dict[str, int | str]) -> None:
        session = int(order["session"])
        match order["op"]:
            case "signal":
                for pid, child in self._children.items():
                    if child.session == session:
                        os.kill(pid, int(order["signal"]))
            case "call_off":
                for child in list(self._children.values()):
                    if child.session == session:
                        self._call_off(child.family)
            case "copy":
                first, count = int(order["first"]), int(order["count"])
                self._arm(session, first, self._channel.take(3 * count))
            case "split":
                [channel] = self._channel.take(1)
                self._split(channel, int(order["index"]))
            case _:
                descriptors = self._channel.take(3)
                try:
                    self._fork(session, descriptors)
                except OSError as error:
                    self._channel.send({"op": "refused", "session": session, "why": str(error)})
                finally:
                    for fd in descriptors:
                        os.close(fd)

    def _split(self, channel: int, index: int) -> None:
        """Fork a zygote that serves another channel, for the users of that number."""
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(channel)
            self._channel.send({"op": "refused", "session": 0, "why": str(error)})
            return
        if pid:
            os.close(channel)
            pidfd = os.pidfd_open(pid)
            self._channel.send({"op": "split"}, [pidfd])
            os.close(pidfd)
            return
        try:
            kernel.die_with_parent(parent)
            self._start_over(channel, index)
            self.serve()
            self.end()
        finally:
            os._exit(0)

    def _start_over(self, channel: int, index: int) -> None:
        """In a fresh copy of a zygote: forget its children, and close all that was its own."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for ours in (self._channel.socket, self._nursery, self._nursery_far):
            ours.detach()
        kept = {0, 1, 2, channel, _DESCRIPTORS} | self._housing.shift(index)
        for low, high in itertools.pairwise(sorted(kept)):
            os.closerange(low + 1, high)
        self._channel = Channel(socket.socket(fileno=channel))
        self._children = {}
        self._open()

    def _arm(self, session: int, first: int, descriptors: list[int]) -> None:
        """Allow a session to make copies, numbered from `first` in the order they show up."""
        self._welcome()
        found = [(pid, c) for pid, c in self._children.items() if c.session == session]
        why = ""
        if not found:
            why = "the session is gone"
        elif found[0][1].family.asking is None:
            why = "its filter cannot ask (Linux 5.9, and no other seccomp listener around it)"
        elif found[0][1].family.order is not None:
            why = "another session of its family is being copied"
        if why:
            for fd in descriptors:
                os.close(fd)
            self._channel.send({"op": "refused", "session": session, "why": why})
            return
        births = [
            Birth(first + n, tuple(descriptors[3 * n : 3 * n + 3]))
            for n in range(len(descriptors) // 3)
        ]
        pid, child = found[0]
        child.family.order = Order(pid, len(births), births)
        self._channel.send({"op": "armed", "session": session})

    def _fork(self, session: int, descriptors: list[int]) -> None:
        used = {child.family.slot for child in self._children.values()}
        slot = next(n for n in range(len(used) + 1) if n not in used)
        family, quarters = self._housing.quarters(session, slot)
        try:
            pid = os.fork()
            if pid == 0:
                life.be_first_to_go(self._housing.proc)
                given = [*descriptors, self._nursery_far.fileno()]
                given += [] if quarters.rules is None else [quarters.rules]
                life.live(self._plan, quarters, given, self._memory_mb)
        finally:
            self._housing.release(quarters)
        family.members.add(pid)
        self._children[pid] = _Child(session, family)
        handles: list[int] = []
        if kernel.LINUX:
            handles.append(os.pidfd_open(pid))
        self._channel.send(
            {"op": "forked", "session": session, "pid": pid, "work": family.folder}, handles
        )
        for fd in handles:
            os.close(fd)

    def _call_off(self, family: Family) -> None:
        order = family.order
        if order is not None and self._judge is not None:
            barren = not order.unseen or self._judge.is_barren(order, self._children)
            family.called_off(barren)

    def _born(self, family: Family, birth: Birth, pid: int, pidfd: int) -> None:
        """Give a copy its work folder and tell the trusted side of it. Raises OSError."""
        assert self._judge is not None
        work = self._housing.take_in(family, birth, pidfd, self._judge)
        self._children[pid] = _Child(birth.session, family)
        self._channel.send(
            {"op": "born", "session": birth.session, "pid": pid, "work": work}, [pidfd]
        )

    def _fit(self, pid: int) -> None:
        self._channel.send({"op": "fit", "session": self._children[pid].session})

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue
            self._leave(child.family, pid)
            with contextlib.suppress(OSError):
                self._channel.send(
                    {
                        "op": "exit", "session": child.session, "status": status,
                        "cpu_s": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss,
                    }
                )  # fmt: skip

    def _leave(self, family: Family, pid: int) -> None:
        """One member is dead; after the last one nothing of the family remains."""
        family.members.discard(pid)
        family.newborn.discard(pid)
        if not family.members or (family.order is not None and family.order.parent == pid):
            self._call_off(family)
        if family.members:
            return
        if family.asking is not None:
            self._selector.unregister(family.asking)
            os.close(family.asking)
            family.asking = None
        self._housing.clear(family)


def _noted(number: int, frame: types.FrameType | None) -> None:
    """A handler must exist for the wake-up descriptor to be written to."""
