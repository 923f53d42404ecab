"""The first process: enters the namespaces, forks the zygote, and guards it.

It stays small (nothing heavy is imported here) and has three duties: the zygote dies with it, it
dies with the process that started it, and it removes the work folders of sessions that have no
private file tree.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
import traceback

from agentrl_sandbox.inside import kernel, namespaces
from agentrl_sandbox.inside.folders import remove_tree
from agentrl_sandbox.inside.plan import Plan

_WATCH_S = 0.25
_GONE_S = 2.0


def main() -> None:
    """Run with the channel's descriptor as the last argument and the plan as its first line."""
    parent = os.getppid()
    channel = socket.socket(fileno=int(sys.argv[-1]))
    plan = Plan.from_json(_first_line(channel))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _be_first_to_go()
    how = namespaces.enter() if plan.namespaces else None
    base = "" if plan.namespaces else tempfile.mkdtemp(prefix="agentrl-sandbox-")
    if base:
        os.chmod(base, 0o711)
    launcher = 0 if plan.namespaces else os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        kernel.die_with_parent(launcher)
        _be_zygote(channel, plan, how, base)
    channel.close()
    _guard(pid, parent)
    if base:
        _clear(base)


def _first_line(channel: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n"):
        piece = channel.recv(1)
        if not piece:
            sys.exit(1)
        data += piece
    return data.decode()


def _be_first_to_go() -> None:
    """When memory runs out the kernel is to take a session, never the trainer."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _be_zygote(channel: socket.socket, plan: Plan, how: str | None, base: str) -> None:
    from agentrl_sandbox.inside.zygote import Zygote

    status = 1
    try:
        zygote = Zygote(channel, plan, how, base)
        zygote.prepare()
        try:
            zygote.serve()
        finally:
            zygote.end()
        status = 0
    except Exception:  # noqa: BLE001 - reported on stderr, which the trusted side reads
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _guard(zygote: int, parent: int) -> None:
    """Return once the zygote is dead; kill it when our own parent has gone."""
    while os.waitpid(zygote, os.WNOHANG)[0] == 0:
        if os.getppid() != parent:
            os.kill(zygote, signal.SIGKILL)
        if hasattr(signal, "sigtimedwait"):
            signal.sigtimedwait({signal.SIGCHLD}, _WATCH_S)
        else:
            time.sleep(_WATCH_S)


def _clear(base: str) -> None:
    """Remove the work folders; sessions killed a moment ago may still be writing."""
    deadline = time.monotonic() + _GONE_S
    while os.path.exists(base) and time.monotonic() < deadline:
        remove_tree(base)
        time.sleep(0.01)
