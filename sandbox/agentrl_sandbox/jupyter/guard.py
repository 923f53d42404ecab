"""The first of our processes inside: starts the kernel, buries it, and says how it ended.

The one line of JSON on its standard output comes from `wait4`; the kernel has no way to that stream.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import TypedDict

from agentrl_sandbox.inside import kernel, privileges
from agentrl_sandbox.jupyter import fence


class Order(TypedDict):
    """What the guard is to start."""

    connection_file: str
    work: str
    disk_mb: int
    open_files: int
    filtered: bool
    """Whether to filter system calls, in a file tree and a network of its own."""


class Report(TypedDict):
    """How the kernel ended."""

    status: int
    """As `os.wait4` gives it."""
    cpu_s: float
    peak: int
    """`ru_maxrss`: KiB on Linux."""


def main() -> None:
    """Run with an `Order` as the last argument."""
    order: Order = json.loads(sys.argv[-1])
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_kernel(order, guard)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if kernel.LINUX:
        # Of the same user, it could otherwise be looked into through /proc.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    usage = os.wait4(pid, 0)
    report: Report = {
        "status": usage[1],
        "cpu_s": usage[2].ru_utime + usage[2].ru_stime,
        "peak": usage[2].ru_maxrss,
    }
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(report).encode() + b"\n")
    os._exit(0)


def _be_kernel(order: Order, guard: int) -> None:
    try:
        os.chdir(order["work"])
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.closerange(3, 256)
        _limit(order)
        kernel.die_with_parent(guard)
        if order["filtered"]:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            fence.load()
        _serve(order["connection_file"])
    except Exception as error:  # noqa: BLE001 - whatever it is, no kernel may run without its fence
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


def _limit(order: Order) -> None:
    # The address space is limited from outside, once it is known what an idle kernel takes.
    privileges.limit(
        address_space_mb=1 << 20,
        disk_mb=order["disk_mb"],
        open_files=order["open_files"],
        strict=order["filtered"],
    )


def pack(message: object) -> bytes:
    """JSON in ASCII: the kernel's own packing loses all output after a lone surrogate."""
    from jupyter_client.jsonutil import json_clean, json_default

    try:
        return json.dumps(message, default=json_default, allow_nan=False).encode()
    except (TypeError, ValueError):
        return json.dumps(json_clean(message), default=json_default).encode()


def _serve(connection_file: str) -> None:
    # Nobody will attach a debugger, and loading it is a fifth of a kernel's start.
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    from ipykernel.kernelapp import IPKernelApp

    app = IPKernelApp.instance()
    app.initialize(
        [
            f"--IPKernelApp.connection_file={connection_file}",
            "--HistoryManager.enabled=False",
            "--InteractiveShell.colors=NoColor",
            "--PlainTextFormatter.pprint=False",
            "--ZMQInteractiveShell.cache_size=0",
            f"--Session.packer={__name__}.pack",
        ]
    )
    app.start()
