"""The zygote: one single-threaded warm interpreter that forks a child per session.

It lives in namespaces of its own where the machine allows, runs no model code, and dies when the
trusted side hangs up. On the channel, one JSON object per line: `fork` comes with the three
descriptors of a session and is answered by `forked` (with a pidfd on Linux) or `refused`; `copy`
comes with three for each copy and is answered by `armed` or `refused`, later `born` and `fit` report
each copy, and `call_off` ends the wait for them; `signal` is for machines without pidfds; `exit`
reports what `wait4` said.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import selectors
import signal
import socket
import sys
import types
from dataclasses import dataclass

from agentrl_sandbox.inside import (
    confine,
    kernel,
    namespaces,
    news,
    privileges,
    seccomp,
    visible,
    wire,
)
from agentrl_sandbox.inside.cell import Interpreter
from agentrl_sandbox.inside.family import Birth, Family, Judge, Order
from agentrl_sandbox.inside.folders import remove_tree
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
        self._channel = channel
        self._plan = plan
        self._how = how
        self._base = base
        self._children: dict[int, _Child] = {}
        self._proc = -1
        self._mount_namespace = -1
        self._judge: Judge | None = None
        self._program = b""
        self._readable: tuple[str, ...] = ()
        self._rules: int | None = None
        self._open()
        self._pending = b""
        self._descriptors: list[int] = []
        self._memory_mb = 0.0
        self._first_user: int | None = None

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
        can_become = self._plan.filtered and self._how != "user" and os.geteuid() == 0
        first_user = privileges.spare_users() if can_become else None
        if kernel.LINUX:
            self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._plan.filtered:
            self._judge = Judge(self._proc, self._plan.namespaces, self._born, self._fit)
        if self._plan.namespaces:
            self._mount_namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            namespaces.build_root(visible.readable())
        if first_user is not None and self._reaches_python(first_user):
            self._first_user = first_user
        if self._plan.filtered:
            self._program = seccomp.build(0, private_files=self._plan.namespaces, judged=True)
            self._readable = visible.readable()
        if self._plan.namespaces:
            self._rules = confine.landlock_rules(self._plan, self._readable, namespaces.BOX)
        confine.settle_once(namespaces.WORK)
        gc.collect()
        gc.freeze()

    def _reaches_python(self, user: int) -> bool:
        """Whether that user can read the interpreter's libraries; asked of a throw-away child."""
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1] == 0
        try:
            privileges.become(user)
            roots = visible.interpreter()
            for path in (*roots, self._base or "/"):
                os.stat(path)
            for module in list(sys.modules.values()):
                path = getattr(module, "__file__", None) or ""
                if path.startswith(roots):
                    _readable(path)
            os._exit(0)
        finally:
            os._exit(1)

    def serve(self) -> None:
        """The loop. Returns when the trusted side has hung up and every child is dead."""
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, _noted)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._send({"op": "ready", "threads": 1, "uid": self._first_user})
        selector = self._selector
        for source in (self._channel, self._nursery, reader):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._channel:
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
        data, descriptors, _, _ = socket.recv_fds(self._channel, 65_536, 96)
        self._descriptors += descriptors
        if not data:
            return False
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return True

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
                descriptors = self._descriptors[: 3 * count]
                del self._descriptors[: 3 * count]
                self._arm(session, first, descriptors)
            case "split":
                self._split(self._descriptors.pop(0), int(order["index"]))
            case _:
                descriptors = self._descriptors[:3]
                del self._descriptors[:3]
                try:
                    self._fork(session, descriptors)
                except OSError as error:
                    self._send({"op": "refused", "session": session, "why": str(error)})
                finally:
                    for fd in descriptors:
                        os.close(fd)

    def _split(self, channel: int, index: int) -> None:
        """Fork a zygote that serves another channel, for the users of that number."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(channel)
            pidfd = os.pidfd_open(pid)
            self._send({"op": "split"}, [pidfd])
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
        for ours in (self._channel, self._nursery, self._nursery_far):
            ours.detach()
        kept = {0, 1, 2, channel, self._proc, self._mount_namespace}
        if self._rules is not None:
            kept.add(self._rules)
        for low, high in itertools.pairwise(sorted({*kept, _DESCRIPTORS})):
            os.closerange(low + 1, high)
        self._channel = socket.socket(fileno=channel)
        self._open()
        self._children, self._pending, self._descriptors = {}, b"", []
        if self._first_user is not None:
            self._first_user += index

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
            self._send({"op": "refused", "session": session, "why": why})
            return
        births = [
            Birth(first + n, tuple(descriptors[3 * n : 3 * n + 3]))
            for n in range(len(descriptors) // 3)
        ]
        pid, child = found[0]
        child.family.order = Order(pid, len(births), births)
        self._send({"op": "armed", "session": session})

    def _fork(self, session: int, descriptors: list[int]) -> None:
        used = {child.family.slot for child in self._children.values()}
        slot = next(n for n in range(len(used) + 1) if n not in used)
        family, quarters = self._quarters(session, slot)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_first_to_go()
                given = [*descriptors, self._nursery_far.fileno()]
                given += [] if quarters.rules is None else [quarters.rules]
                _live(self._plan, quarters, given, self._memory_mb)
        finally:
            if quarters.rules is not None and quarters.rules != self._rules:
                os.close(quarters.rules)
        family.members.add(pid)
        self._children[pid] = _Child(session, family)
        handles: list[int] = []
        if kernel.LINUX:
            handles.append(os.pidfd_open(pid))
        self._send({"op": "forked", "session": session, "pid": pid, "work": family.folder}, handles)
        for fd in handles:
            os.close(fd)

    def _be_first_to_go(self) -> None:
        """When memory runs out, of a session and its zygote the session is to be taken."""
        if self._proc < 0:
            return
        with contextlib.suppress(OSError):
            fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=self._proc)
            os.write(fd, b"1000")

    def _quarters(self, session: int, slot: int) -> tuple[Family, confine.Quarters]:
        user = None if self._first_user is None else self._first_user + slot
        folder = os.path.join(self._base, str(session)) if self._base else ""
        family = Family(session, slot, folder)
        work = namespaces.WORK
        if folder:
            self._make_folder(folder, slot)
            work = os.path.join(folder, str(session))
            self._make_folder(work, slot)
        rules = self._rules
        if self._plan.landlocked:
            rules = confine.landlock_rules(self._plan, self._readable, folder)
        quarters = confine.Quarters(
            user, self._owner(slot), work, rules, self._program, os.getpid()
        )
        return family, quarters

    def _owner(self, slot: int) -> tuple[int, int]:
        if self._first_user is None:
            return os.geteuid(), os.getegid()
        return self._first_user + slot, self._first_user + slot

    def _make_folder(self, path: str, slot: int) -> None:
        os.mkdir(path, 0o700)
        if self._first_user is not None:
            os.chown(path, *self._owner(slot))

    def _call_off(self, family: Family) -> None:
        if family.order is not None and self._judge is not None:
            family.called_off(self._judge.strangers(self._children))

    def _born(self, family: Family, birth: Birth, pid: int, pidfd: int) -> None:
        """Give a copy its work folder and tell the trusted side of it. Raises OSError."""
        work = namespaces.WORK
        if family.folder:
            work = os.path.join(family.folder, str(birth.session))
            self._make_folder(work, family.slot)
        else:
            owner = self._owner(family.slot)
            assert self._judge is not None
            assert family.order is not None
            self._judge.map_user(pidfd, family.order.parent, owner)
            namespaces.mount_for(pidfd, self._mount_namespace, *owner, self._plan.disk_mb)
        self._children[pid] = _Child(birth.session, family)
        self._send({"op": "born", "session": birth.session, "pid": pid, "work": work}, [pidfd])

    def _fit(self, pid: int) -> None:
        self._send({"op": "fit", "session": self._children[pid].session})

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
                self._send(
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
        if family.folder:
            _sweep(family.folder)

    def _send(self, message: news.News, handles: list[int] | None = None) -> None:
        line = json.dumps(message).encode() + b"\n"
        if handles:
            socket.send_fds(self._channel, [line], handles)
        else:
            self._channel.sendall(line)


def _sweep(folder: str) -> None:
    """Remove a family's folders; a child does what may take long, the zygote must answer."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            os.rmdir(os.path.join(folder, name))
        os.rmdir(folder)
        return
    parent = os.getpid()
    if os.fork() == 0:
        try:
            kernel.die_with_parent(parent)
            os.closerange(3, 4096)
            remove_tree(folder)
        finally:
            os._exit(0)


def _noted(number: int, frame: types.FrameType | None) -> None:
    """A handler must exist for the wake-up descriptor to be written to."""


def _readable(path: str) -> None:
    with open(path, "rb"):
        return


def _live(plan: Plan, quarters: confine.Quarters, descriptors: list[int], base_mb: float) -> None:
    """A session child, from its fork to its end. Never returns."""
    try:
        confine.take_descriptors(*descriptors)
        control = socket.socket(fileno=confine.CONTROL_FD)
        try:
            os.setsid()
            confine.settle(quarters.work)
            with socket.socket(fileno=confine.NURSERY_FD) as nursery:
                confine.put_up(plan, quarters, base_mb, nursery)
        except Exception as error:  # noqa: BLE001 - whatever failed, the fence does not stand
            why = wire.encode(f"{type(error).__name__}: {error}")[: wire.MAX_ERROR_BYTES]
            control.sendall(wire.reply(wire.NO_NONCE, wire.UNFIT, None, why))
            os._exit(1)
        Interpreter(control, plan.value_bytes, quarters.work, plan.namespaces).serve()
    finally:
        os._exit(0)
