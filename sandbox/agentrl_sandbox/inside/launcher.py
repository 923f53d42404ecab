"""The first process: enters the namespaces, forks the zygote, and guards it.

It stays small (nothing heavy is imported here) and has three duties: the zygote dies with it, it
dies with the process that started it, and it removes what the sessions lived in: the work folders of
those without a private file tree, and cgroups.
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
    groups = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in plan.cgroups]
    parents = [
        os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY) for path in plan.cgroups
    ]
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
        for fd in (*groups, *parents):
            os.close(fd)
        _be_zygote(channel, plan, how, base)
    channel.close()
    _guard(pid, parent)
    if base:
        _clear(base)
    for path, group, above in zip(plan.cgroups, groups, parents, strict=True):
        _clear_cgroup(os.path.basename(path), group, above)


def _first_line(channel: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n"):
        piece = channel.recv(1)
        if not piece:
            sys.exit(1)
        data += piece
    return data.decode()


def _be_first_to_go() -> None:
    """When memory runs out the kernel is to take a session, then a zygote, never the trainer."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("900")


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


def _clear_cgroup(name: str, group: int, above: int) -> None:
    """Remove a cgroup and those in it, by handles that were there before the namespaces.

    The trusted side does the same when it closes in good order; whoever comes second finds nothing.
    """
    deadline = time.monotonic() + _GONE_S
    while time.monotonic() < deadline:
        try:
            for inner in os.listdir(group):
                with contextlib.suppress(NotADirectoryError, PermissionError):
                    os.rmdir(inner, dir_fd=group)
            os.rmdir(name, dir_fd=above)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
