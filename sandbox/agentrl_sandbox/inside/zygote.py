"""The zygote: one single-threaded warm interpreter that forks a child per session.

It lives in namespaces of its own where the machine allows, runs no model code, and dies when the
trusted side hangs up. On the channel, one JSON object per line: `fork` comes with the three
descriptors of a session and is answered by `forked` (with a pidfd on Linux) or `refused`;
`signal` is for machines without pidfds; `exit` reports what `wait4` said.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import types
from dataclasses import dataclass

from agentrl_sandbox.inside import confine, kernel, namespaces, news, privileges, visible, wire
from agentrl_sandbox.inside.cell import Interpreter
from agentrl_sandbox.inside.folders import remove_tree
from agentrl_sandbox.inside.plan import Plan
from agentrl_sandbox.inside.warm import warm_up


@dataclass(frozen=True, slots=True)
class _Child:
    session: int
    slot: int
    work: str


class Zygote:
    """Forks, reaps and reports until the channel closes."""

    def __init__(self, channel: socket.socket, plan: Plan, how: str | None, base: str) -> None:
        self._channel = channel
        self._plan = plan
        self._how = how
        self._base = base
        self._children: dict[int, _Child] = {}
        self._pid_namespace: int | None = None
        self._pending = b""
        self._descriptors: list[int] = []
        self._memory_mb = 0.0
        self._first_user: int | None = None

    def prepare(self) -> None:
        """Warm up, then move into the private file tree. Raises OSError or RuntimeError."""
        if self._plan.warm:
            warm_up()
        if kernel.LINUX and len(os.listdir("/proc/self/task")) != 1:
            raise RuntimeError("the warm interpreter started threads and cannot fork safely")
        self._memory_mb = privileges.address_space_mb()
        can_become = self._plan.filtered and self._how != "user" and os.geteuid() == 0
        first_user = privileges.spare_users() if can_become else None
        if self._plan.namespaces:
            self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            namespaces.build_root(visible.readable())
        if first_user is not None and self._reaches_python(first_user):
            self._first_user = first_user
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
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(reader, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._channel:
                        if not self._receive():
                            return
                    else:
                        os.read(reader, 4096)
                self._reap()

    def end(self) -> None:
        """Kill and reap every child."""
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._channel, 65_536, 16)
        self._descriptors += descriptors
        if not data:
            return False
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return True

    def _obey(self, order: dict[str, int | str]) -> None:
        session = int(order["session"])
        if order["op"] == "signal":
            for pid, child in self._children.items():
                if child.session == session:
                    os.kill(pid, int(order["signal"]))
            return
        descriptors, self._descriptors = self._descriptors[:3], self._descriptors[3:]
        try:
            self._fork(session, descriptors)
        except OSError as error:
            self._send({"op": "refused", "session": session, "why": str(error)})
        finally:
            for fd in descriptors:
                os.close(fd)

    def _fork(self, session: int, descriptors: list[int]) -> None:
        used = {child.slot for child in self._children.values()}
        slot = next(n for n in range(len(used) + 1) if n not in used)
        quarters = self._quarters(session, slot)
        pid = namespaces.fork_session(self._pid_namespace)
        if pid == 0:
            _live(self._plan, quarters, descriptors, self._memory_mb)
        self._children[pid] = _Child(session, slot, quarters.work)
        handles: list[int] = []
        if kernel.LINUX:
            handles.append(os.pidfd_open(pid))
        work = quarters.work if self._base else ""
        self._send({"op": "forked", "session": session, "pid": pid, "work": work}, handles)
        for fd in handles:
            os.close(fd)

    def _quarters(self, session: int, slot: int) -> confine.Quarters:
        user = None if self._first_user is None else self._first_user + slot
        me = os.geteuid() if user is None else user
        work = namespaces.WORK
        if self._base:
            work = os.path.join(self._base, str(session))
            os.mkdir(work, 0o700)
            if user is not None:
                os.chown(work, user, user)
        group = os.getegid() if user is None else user
        parent = 0 if self._plan.namespaces else os.getpid()
        return confine.Quarters(user, (me, group), work, parent)

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
            if self._base:
                _sweep(child.work)
            with contextlib.suppress(OSError):
                self._send(
                    {
                        "op": "exit", "session": child.session, "status": status,
                        "cpu_s": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss,
                    }
                )  # fmt: skip

    def _send(self, message: news.News, handles: list[int] | None = None) -> None:
        line = json.dumps(message).encode() + b"\n"
        if handles:
            socket.send_fds(self._channel, [line], handles)
        else:
            self._channel.sendall(line)


def _sweep(folder: str) -> None:
    """Remove a work folder; a child does what may take long, the zygote must answer."""
    with contextlib.suppress(OSError):
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        confine.take_descriptors(*descriptors)
        control = socket.socket(fileno=confine.CONTROL_FD)
        try:
            os.setsid()
            confine.settle(quarters.work)
            confine.put_up(plan, quarters, base_mb)
        except Exception as error:  # noqa: BLE001 - whatever failed, the fence does not stand
            why = wire.encode(f"{type(error).__name__}: {error}")[: wire.MAX_ERROR_BYTES]
            control.sendall(wire.reply(wire.NO_NONCE, wire.UNFIT, None, why))
            os._exit(1)
        Interpreter(control, plan.value_bytes).serve()
    finally:
        os._exit(0)
