"""Putting up the fence around a session child, in the one order that works.

Mounts need capabilities, Landlock needs paths that the user may no longer reach, dropping the user
clears the parent-death signal, and the filter forbids most of these steps: so it comes last. Any
failure ends the child before it has run a line of model code.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass

from agentrl_sandbox.inside import kernel, landlock, namespaces, privileges, seccomp, visible
from agentrl_sandbox.inside.plan import Plan

CONTROL_FD, NURSERY_FD = 3, 4
_FIRST_FREE = 5
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
    folder: str
    """What it may write below: the work folder, and those of its copies where they lie beside it."""
    parent: int
    """The zygote's pid as the session sees it."""


def take_descriptors(out: int, err: int, control: int, nursery: int) -> None:
    """Make them 1 to 4, /dev/null 0, and close everything else."""
    null = os.open(os.devnull, os.O_RDONLY)
    # First out of the way, so that no source is overwritten before it is copied.
    safe = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in (null, out, err, control, nursery)]
    for target, fd in enumerate(safe):
        os.dup2(fd, target, inheritable=False)
    if kernel.LINUX:
        with contextlib.suppress(OSError):
            kernel.syscall("close_range", _FIRST_FREE, 0x7FFFFFFF, 0)
            return
    os.closerange(_FIRST_FREE, 65_536)


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
    if plan.landlocked or (plan.namespaces and landlock.abi()):
        readable = (*visible.readable(), *visible.READ_DEVICES)
        landlock.restrict(readable, (quarters.folder,), visible.WRITE_DEVICES)
    if quarters.user is not None:
        privileges.become(quarters.user)
    privileges.drop_capabilities()
    kernel.die_with_parent(quarters.parent)
    pid = os.getpid()
    try:
        program = seccomp.build(pid, private_files=plan.namespaces, judged=True)
        listener = seccomp.load_asking(program)
    except OSError:
        # An old kernel, or a container whose own filter asks: no copies of this session then.
        seccomp.load(seccomp.build(pid, private_files=plan.namespaces))
        return
    socket.send_fds(nursery, [b"%d" % pid], [listener])
    os.close(listener)


def settle(work: str) -> None:
    """Make the interpreter look new: signals, environment, arguments, random numbers."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(
        HOME=work, TMPDIR=work, PWD=work, USER="sandbox", LANG="C.UTF-8", TZ="UTC",
        PATH="/usr/bin:/bin", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1",
    )  # fmt: skip
    tempfile.tempdir = None
    sys.argv[:] = [""]
    reseed()


def reseed() -> None:
    """Fresh entropy for every generator that the zygote's children would otherwise share."""
    random.seed()
    for name in ("numpy.random", "sympy.core.random"):
        if name in sys.modules:
            sys.modules[name].seed()
