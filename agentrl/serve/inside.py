"""What the sandbox server runs inside a session: files in and out, a program as `python file` would.

Loaded there as source. Everything it reports is a claim by the process that ran the program.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import linecache
import mmap
import os
import sys
import tempfile
import traceback
import types
from typing import Any

FILE = "main.py"
_own_file = __file__ if "__file__" in globals() else "<agentrl>"


class Plain(str):
    """A string that the interpreter echoes as it is."""

    def __repr__(self) -> str:
        return str(self)


def put(files: dict[str, str]) -> None:
    """Write base64 contents to relative paths below the work folder."""
    for name, content in files.items():
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(name, "wb") as file:
            file.write(base64.b64decode(content))


def size(name: str, limit: int) -> Plain:
    """Bytes of a regular file below the work folder; -1 when there is none, or it is too large."""
    inside = os.path.realpath(name).startswith(os.path.realpath(".") + os.sep)
    found = os.path.getsize(name) if inside and os.path.isfile(name) else -1
    return Plain(found if found <= limit else -1)


def get(name: str, start: int, count: int) -> Plain:
    """Base64 of `count` bytes from `start`."""
    with open(name, "rb") as file:
        file.seek(start)
        return Plain(base64.b64encode(file.read(count)).decode())


def _read_from(stdin: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(stdin.encode("utf-8", "surrogatepass"))
        file.seek(0)
        os.dup2(file.fileno(), 0)
    raw = io.BufferedReader(io.FileIO(0, closefd=False))
    sys.stdin = io.TextIOWrapper(raw, "utf-8", "surrogateescape")


def _limit_memory(memory_mb: int) -> None:
    """A smaller limit than the session's own; what the interpreter has already is not counted."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        used, beyond = 0, hard if hard > 0 else 1 << 40
        # A session has no /proc to read its size from: the size is where mapping a page begins to
        # be refused.
        while beyond - used > 1 << 20:
            limit = (used + beyond) // 2
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
            used, beyond = (used, limit) if _can_map() else (limit, beyond)
        wanted = beyond + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (min(wanted, hard) if hard > 0 else wanted, hard))


def _can_map() -> bool:
    try:
        mmap.mmap(-1, mmap.PAGESIZE).close()
    except (OSError, MemoryError):
        return False
    return True


def run(source: str, stdin: str | None, memory_mb: int) -> Plain:
    """Run a program as the main module; answers with its exit code, tracebacks go to stderr."""
    if stdin is not None:
        _read_from(stdin)
    if memory_mb > 0:
        _limit_memory(memory_mb)
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    code: Any = 0
    try:
        exec(compile(source, FILE, "exec"), module.__dict__)
    except SystemExit as error:
        code = _exit_code(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever the program raises is its end
        code = 1
        _show(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return Plain(json.dumps({"exit_code": int(code) & 0xFF}))


def _exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        report.stack = traceback.StackSummary.from_list(
            [frame for frame in report.stack if frame.filename != _own_file]
        )
        sys.stderr.writelines(report.format())
    except BaseException:  # noqa: BLE001 - formatting calls methods that the program wrote
        with contextlib.suppress(BaseException):
            print(f"{type(error).__name__} (it cannot be printed)", file=sys.stderr)


__all__ = ["FILE", "Plain", "get", "put", "run", "size"]
