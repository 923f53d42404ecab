"""Putting up the fence around a session child, in the one order that works.

Mounts need capabilities, Landlock needs paths that the user may no longer reach, dropping the user
clears the parent-death signal, and the filter forbids most of these steps: so it comes last. Any
failure ends the child before it has run a line of model code.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass

from agentrl_sandbox.inside import kernel, landlock, namespaces, privileges, seccomp, visible
from agentrl_sandbox.inside.plan import Plan

_HAND_OVER_TRIES, _HAND_OVER_S = 200, 0.01
CONTROL_FD, NURSERY_FD, RULES_FD = 3, 4, 5
_HIGH = 100
COPIES = 256
"""Room for copies beside a session's threads: they are all one user's."""


@dataclass(frozen=True, slots=True)
class Quarters:
    """Where and as whom one session lives."""

    user: int | None
    """User and group to become; None: stay (already ordinary, or no other user reaches Python)."""
    owner: tuple[int, int]
    """User and group that own the work folder, as seen from inside."""
    work: str
    """The work folder as the session sees it."""
    rules: int | None
    """Descriptor of its Landlock rules; None: none are wanted or the kernel has none."""
    program: bytes
    """Its filter; empty at level `none`."""
    parent: int
    """The zygote's pid as the session sees it."""


def take_descriptors(*wanted: int) -> None:
    """Make them 1, 2 and so on, /dev/null 0, and close everything else."""
    null = os.open(os.devnull, os.O_RDONLY)
    # First out of the way, so that no source is overwritten before it is copied.
    safe = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in (null, *wanted)]
    for target, fd in enumerate(safe):
        os.dup2(fd, target, inheritable=False)
    if kernel.LINUX:
        with contextlib.suppress(OSError):
            kernel.syscall("close_range", len(safe), 0x7FFFFFFF, 0)
            return
    os.closerange(len(safe), 65_536)


def put_up(plan: Plan, quarters: Quarters, base_mb: float, nursery: socket.socket) -> None:
    """Confine this process as `plan` says. `base_mb`: address space of the warm interpreter.

    The filter's listener, if it has one, goes to the zygote over `nursery`. Raises OSError when any
    step fails; the caller must not go on then.
    """
    if plan.namespaces:
        namespaces.session_mounts(*quarters.owner, plan.disk_mb)
    os.chdir(quarters.work)
    privileges.limit(
        address_space_mb=base_mb + plan.memory_mb,
        disk_mb=plan.disk_mb,
        open_files=plan.open_files,
        processes=None if quarters.user is None else plan.processes + COPIES,
        strict=plan.filtered,
    )
    if plan.filtered:
        _bolt(plan, quarters, nursery)
    else:
        kernel.die_with_parent(quarters.parent)


def _bolt(plan: Plan, quarters: Quarters, nursery: socket.socket) -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if quarters.rules is not None:
        landlock.obey(RULES_FD)
        os.close(RULES_FD)
    if quarters.user is not None:
        privileges.become(quarters.user)
    privileges.drop_capabilities()
    kernel.die_with_parent(quarters.parent)
    try:
        listener = seccomp.load_asking(quarters.program)
    except OSError:
        # An old kernel, or a container whose own filter asks: no copies of this session then.
        seccomp.load(seccomp.build(os.getpid(), private_files=plan.namespaces))
        return
    _hand_over(nursery, listener)
    os.close(listener)


def _hand_over(nursery: socket.socket, listener: int) -> None:
    """Send the listener to the zygote. Raises OSError.

    The kernel bounds the descriptors of one user that are under way, over all processes, by the
    sender's own limit: beside many others that start just now one has to wait.
    """
    for left in range(_HAND_OVER_TRIES, -1, -1):
        try:
            socket.send_fds(nursery, [b"%d" % os.getpid()], [listener])
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or not left:
                raise
            time.sleep(_HAND_OVER_S)


def landlock_rules(plan: Plan, readable: tuple[str, ...], folder: str) -> int | None:
    """Rules for a session that may write below `folder`, made by the zygote. Raises OSError.

    With namespaces Landlock is a second fence, where there is one.
    """
    if plan.landlocked or (plan.namespaces and landlock.abi()):
        read = (*readable, *visible.READ_DEVICES)
        return landlock.rules(read, (folder,), visible.WRITE_DEVICES)
    return None


def settle_once(work: str) -> None:
    """Make the zygote's interpreter look new, and so those of its children: once is cheaper."""
    os.environ.clear()
    os.environ.update(
        HOME=work, TMPDIR=work, PWD=work, USER="sandbox", LANG="C.UTF-8", TZ="UTC",
        PATH="/usr/bin:/bin", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1",
    )  # fmt: skip
    tempfile.tempdir = None
    sys.argv[:] = [""]


def settle(work: str) -> None:
    """What is left to do in a child: signals, its own folder, random numbers."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if os.environ["HOME"] != work:
        os.environ.update(HOME=work, TMPDIR=work, PWD=work)
    reseed()


def reseed() -> None:
    """Fresh entropy for every generator that the zygote's children would otherwise share."""
    random.seed()
    if "numpy.random" in sys.modules:
        # A number is taken in much faster than numpy's own entropy.
        sys.modules["numpy.random"].seed(int.from_bytes(os.urandom(4)))
    if "sympy.core.random" in sys.modules:
        sys.modules["sympy.core.random"].seed()
