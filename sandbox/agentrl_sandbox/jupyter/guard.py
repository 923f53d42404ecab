"""The first of our processes inside: starts the kernel, buries it, and says how it ended.

It writes one line of JSON, what `wait4` said, to a pipe that the kernel does not have.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from typing import NoReturn, TypedDict

from agentrl_sandbox.inside import kernel, privileges
from agentrl_sandbox.jupyter import fence

_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
INODES = 16_384
"""Files and folders that a work folder may hold."""
_SCRATCH_MB, _SCRATCH_INODES = 4, 256


class Order(TypedDict):
    """What the guard is to start."""

    connection_file: str
    work: str
    scratch: str
    """Where IPython keeps its profile."""
    disk_mb: int
    open_files: int
    report: int
    """Descriptor of the pipe for the report."""
    fenced: bool
    """Whether we live in a file tree and a network of our own: then folders are mounted
    and system calls are filtered."""


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
    kernel.die_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_kernel(order, guard)
    # Of the same user, it could otherwise be looked into where there is a /proc.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if order["fenced"]:
        privileges.drop_capabilities()
    for fd in range(3):
        os.close(fd)
    _, status, usage = os.wait4(pid, 0)
    report: Report = {
        "status": status,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss,
    }
    with contextlib.suppress(OSError):
        os.write(order["report"], json.dumps(report).encode() + b"\n")
    os._exit(0)


def _be_kernel(order: Order, guard: int) -> NoReturn:
    try:
        # A group of its own: what it does to its group must not stop the guard.
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.closerange(3, 4096)
        _settle(order)
        kernel.die_with_parent(guard)
        if order["fenced"]:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            fence.load()
        _serve(order["connection_file"])
    except Exception as error:  # noqa: BLE001 - whatever it is, no kernel may run without its fence
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


def _settle(order: Order) -> None:
    """Work folder, limits, and for good without capabilities."""
    work = order["work"]
    if order["fenced"]:
        _mount(work, order["disk_mb"], INODES)
        _mount(order["scratch"], _SCRATCH_MB, _SCRATCH_INODES)
        privileges.drop_capabilities()
    os.chdir(work)
    # The address space is limited from outside, once it is known what an idle kernel takes.
    privileges.limit(
        address_space_mb=1 << 20,
        disk_mb=order["disk_mb"],
        open_files=order["open_files"],
        processes=None,
        strict=order["fenced"],
    )


def _mount(folder: str, size_mb: int, inodes: int) -> None:
    owner = f"uid={os.geteuid()},gid={os.getegid()}"
    options = f"size={size_mb}m,nr_inodes={inodes},mode=700,{owner}"
    kernel.mount("tmpfs", folder, "tmpfs", _NOSUID_NODEV_NOEXEC, options)


def pack(message: object) -> bytes:
    """JSON in ASCII: the kernel's own packing fails on a lone surrogate."""
    from jupyter_client.jsonutil import json_clean, json_default

    try:
        return json.dumps(message, default=json_default, allow_nan=False).encode()
    except (TypeError, ValueError):
        return json.dumps(json_clean(message), default=json_default).encode()


def _serve(connection_file: str) -> None:
    # Nobody will attach a debugger, and loading it is a fifth of a kernel's start.
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    from ipykernel.kernelapp import IPKernelApp

    # No streams of its own: what is printed takes the pipes, in order and even before a crash.
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    app = IPKernelApp.instance(outstream_class=None)
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
    _make_plain(app.shell)
    app.start()


def _make_plain(shell: object) -> None:
    """Exits and hooks as in a script: `sys.exit` ends the interpreter, with its code."""
    import builtins
    import warnings

    warnings.filterwarnings("ignore", message="To exit: use")
    sys.excepthook = sys.__excepthook__
    names = {name: getattr(builtins, name, sys.exit) for name in ("exit", "quit")}
    shell.user_ns.update(names)  # type: ignore[attr-defined]
    shell.events.register("post_run_cell", _finish_cell)  # type: ignore[attr-defined]


def _finish_cell(result: object) -> None:
    error = getattr(result, "error_in_exec", None)
    if isinstance(error, SystemExit):
        _exit(error.code)
    # A kernel whose own streams are closed never replies.
    if getattr(sys.stdout, "closed", True):
        sys.stdout = _stream(1)
    if getattr(sys.stderr, "closed", True):
        sys.stderr = _stream(2)


def _stream(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, "utf-8", errors="backslashreplace", line_buffering=True)


def _exit(code: object) -> NoReturn:
    if code is not None and not isinstance(code, int):
        with contextlib.suppress(Exception):
            print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit((code or 0) & 0xFF)
