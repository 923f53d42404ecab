"""What the zygote decides for a session and its copies.

The filter of a session refuses model code every way of making a process, but one: the exact `clone`
that makes a copy, about which it asks the zygote. The zygote says yes as often as the trusted side
ordered copies, and to nobody else. A copy is the zygote's own child from birth. It cannot go on
before it has asked for `setsid` (there it gets channels that no other process holds, and a work
folder) and for its parent-death signal (before that it must have given up its capabilities).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable

from agentrl_sandbox.inside import kernel, listener, seccomp
from agentrl_sandbox.inside.family import Birth, Family, Order, kill
from agentrl_sandbox.inside.listener import Question
from agentrl_sandbox.inside.syscalls import NUMBERS

_LOOKS, _LOOK_S = 5, 0.002


class Judge:
    """Answers the questions of all families of a zygote.

    `proc`: descriptor of a /proc, in which this process's pid namespace may be a nested one.
    `born` takes a copy that shows itself, with its pid and pidfd: it must make the work folder and
    report it. `fit` reports that a copy's fence stands.
    """

    def __init__(
        self,
        proc: int,
        private_files: bool,
        born: Callable[[Family, Birth, int, int], None],
        fit: Callable[[int], None],
    ) -> None:
        self._proc = proc
        self._flags = seccomp.copy_flags(private_files)
        self._born = born
        self._fit = fit
        self._numbers = {NUMBERS[kernel.ARCH][n]: n for n in _ASKED if n in NUMBERS[kernel.ARCH]}

    def hear(self, family: Family) -> None:
        """Answer one question of a family whose listener is readable."""
        asking = family.asking
        assert asking is not None
        question = listener.receive(asking)
        if question is None:
            return
        if family.overrun():
            family.end()
        if self._permits(family, question):
            listener.allow(asking, question)
        else:
            listener.refuse(asking, question, errno.EPERM)

    def _permits(self, family: Family, question: Question) -> bool:
        try:
            match self._numbers.get(question.number):
                case "clone":
                    return self._may_fork(family, question)
                case "setsid":
                    return self._is_born(family, question)
                case "prctl":
                    return self._is_ready(family, question)
                case None:
                    return False
                case _:
                    return _is_own(question.signed(0), question.thread, family)
        except OSError:
            return False

    def _may_fork(self, family: Family, question: Question) -> bool:
        order = family.order
        if order is None or order.clones == 0 or question.thread != order.parent:
            return False
        if question.arguments[0] & 0xFFFFFFFF != self._flags:
            return False
        if self._status(question.thread)["Threads"] != "1":
            return False
        order.clones -= 1
        return True

    def _is_born(self, family: Family, question: Question) -> bool:
        """A copy's first call: from here on it is a session of its own."""
        order, pid = family.order, question.thread
        if order is None or not order.births or pid in family.members:
            return False
        # Fails for a thread that is not a process.
        pidfd = os.pidfd_open(pid)
        try:
            assert family.asking is not None
            birth = order.births[0]
            for number, descriptor in enumerate(birth.descriptors, 1):
                listener.give(family.asking, question, descriptor, number)
            self._born(family, birth, pid, pidfd)
            family.members.add(pid)
            family.newborn.add(pid)
            order.births.pop(0)
            birth.close()
        finally:
            os.close(pidfd)
        return True

    def _is_ready(self, family: Family, question: Question) -> bool:
        """A copy's last call before it is leased; it sleeps in it, so what we see is the truth."""
        pid = question.thread
        if pid not in family.newborn or question.arguments[1] != signal.SIGKILL:
            return False
        status = self._status(pid)
        powerless = all(int(status[name], 16) == 0 for name in ("CapPrm", "CapEff", "CapInh"))
        if status["Threads"] != "1" or not powerless:
            kill(pid)
            return False
        family.newborn.discard(pid)
        if family.order is not None and not family.order.births and not family.newborn:
            family.order = None
        self._fit(pid)
        return True

    def _status(self, pid: int) -> dict[str, str]:
        pidfd = os.pidfd_open(pid)
        try:
            return self._fields(f"{self.outer(pidfd)}/status")
        finally:
            os.close(pidfd)

    def outer(self, pidfd: int) -> str:
        """The number that a process has in the /proc we hold. Raises OSError."""
        return self._fields(f"self/fdinfo/{pidfd}")["Pid"]

    def map_user(self, pidfd: int, parent: int, owner: tuple[int, int]) -> None:
        """Let a copy in a new user namespace keep its user and group, but no others.

        Only that namespace's parent may do so, which is another one than ours when `parent`, its
        pid, is a copy too; then a child of ours goes there. Raises OSError.
        """
        folder = self.outer(pidfd)
        try:
            self._write_maps(folder, owner)
        except PermissionError:
            self._write_maps_from(parent, folder, owner)

    def _write_maps(self, folder: str, owner: tuple[int, int]) -> None:
        for name, number in zip(("uid_map", "gid_map"), owner, strict=True):
            fd = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._proc)
            try:
                os.write(fd, b"%d %d 1" % (number, number))
            finally:
                os.close(fd)

    def _write_maps_from(self, parent: int, folder: str, owner: tuple[int, int]) -> None:
        pidfd = os.pidfd_open(parent)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                kernel.setns(pidfd, kernel.CLONE_NEWUSER)
                self._write_maps(folder, owner)
                status = 0
            finally:
                os._exit(status)
        os.close(pidfd)
        if os.waitpid(pid, 0)[1]:
            raise OSError("a nested user namespace could not be mapped")

    def is_barren(self, order: Order, known: Iterable[int]) -> bool:
        """Whether the forks that were allowed have failed, and none is under way any more.

        The parent must be stopped for that: else it may be in the middle of one.
        """
        try:
            for _ in range(_LOOKS):
                if self._status(order.parent)["State"].startswith("T"):
                    return not self._has_strangers(known)
                time.sleep(_LOOK_S)
        except OSError:
            return False
        return False

    def _has_strangers(self, known: Iterable[int]) -> bool:
        """Whether this process has children beside those `known`; True when nobody can tell."""
        try:
            ours: set[str] = set()
            for pid in known:
                pidfd = os.pidfd_open(pid)
                ours.add(self.outer(pidfd))
                os.close(pidfd)
            with open(os.open("thread-self/children", os.O_RDONLY, dir_fd=self._proc)) as file:
                return not ours.issuperset(file.read().split())
        except OSError:
            return True

    def _fields(self, path: str) -> dict[str, str]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        with os.fdopen(fd) as file:
            return {k: v.strip() for k, _, v in (line.partition(":") for line in file)}


_ASKED = f"clone setsid prctl {seccomp.PINNED}".split()


def _is_own(target: int, thread: int, family: Family) -> bool:
    """Whether a thread's call is about its own process."""
    if target == thread:
        return True
    if target not in family.members:
        return False
    # Only then does that process have that thread.
    kernel.syscall("tgkill", target, thread, 0)
    return True
