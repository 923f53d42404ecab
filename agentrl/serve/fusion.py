"""SandboxFusion's `/run_code` and `/run_jupyter` (2412.00535) on top of any sandbox pool.

Differences from the original, all on the safe side: only Python; the code runs behind the pool's
fence; output is capped with the number of bytes left out told; `memory_limit_MB` can lower the
pool's own limit and not raise it; a file whose interpreter was killed cannot be fetched. The extra
field `agentrl` of an answer says what the schema has no room for.
"""

from __future__ import annotations

import base64
import binascii
import json
import marshal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resource_files
from importlib.util import MAGIC_NUMBER

from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, OneShot, Sandbox, SandboxPool
from agentrl.serve.body import BadRequest, inner_path, number, text, texts, uploads
from agentrl.types import JsonValue

MAX_RUN_S = 3600.0
MAX_FILE_BYTES = 16 << 20
"""Of one fetched file."""
_PART_BYTES = 9_000
_HOUSEKEEPING_S = 30.0
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """`/run_code`; the compile limits of other languages are accepted and mean nothing."""

    code: str
    run_timeout: float
    memory_limit_mb: int
    stdin: str | None
    files: Mapping[str, str]
    fetch_files: Sequence[str]

    @classmethod
    def of(cls, body: Mapping[str, JsonValue]) -> CodeRequest:
        """Raises BadRequest, also for a language other than Python (see `Unsupported`)."""
        language = text(body, "language")
        if language != "python":
            raise Unsupported(f"this server runs python only, not {language!r}")
        return cls(
            code=text(body, "code"),
            run_timeout=number(body, "run_timeout", 10, MAX_RUN_S),
            memory_limit_mb=int(number(body, "memory_limit_MB", -1, 1 << 30)),
            stdin=None if body.get("stdin") is None else text(body, "stdin"),
            files=uploads(body),
            fetch_files=[inner_path(name) for name in texts(body, "fetch_files")],
        )


@dataclass(frozen=True, slots=True)
class JupyterRequest:
    """`/run_jupyter`."""

    cells: Sequence[str]
    cell_timeout: float
    """Seconds of one cell; 0 for no limit but the total."""
    total_timeout: float
    files: Mapping[str, str]
    fetch_files: Sequence[str]

    @classmethod
    def of(cls, body: Mapping[str, JsonValue]) -> JupyterRequest:
        """Raises BadRequest."""
        if "cells" not in body:
            raise BadRequest("`cells` is missing")
        if text(body, "kernel", "python3") != "python3":
            raise BadRequest("`kernel` must be python3")
        return cls(
            cells=texts(body, "cells"),
            cell_timeout=number(body, "cell_timeout", 0, MAX_RUN_S),
            total_timeout=number(body, "total_timeout", 45, MAX_RUN_S),
            files=uploads(body),
            fetch_files=[inner_path(name) for name in texts(body, "fetch_files")],
        )


class Unsupported(BadRequest):
    """Understood, but not done here: answered with status SandboxError, as the schema has it."""


def refusal(message: str) -> dict[str, JsonValue]:
    """The answer when the box, not the code, failed or refused."""
    return {
        "status": "SandboxError", "message": message, "compile_result": None, "run_result": None,
        "executor_pod_name": None, "files": {},
    }  # fmt: skip


async def run_code(pool: SandboxPool, asked: CodeRequest) -> dict[str, JsonValue]:
    """Run one program. Raises SandboxError when the box failed."""
    program = _call("run", asked.code, asked.stdin, asked.memory_limit_mb)
    if isinstance(pool, OneShot) and not asked.files and not asked.fetch_files:
        result = await pool.run_once(program, timeout_s=max(asked.run_timeout, 0.001))
        return _code_answer(result, {})
    session = await pool.acquire()
    try:
        await _put(session, asked.files)
        result = await session.run(program, timeout_s=max(asked.run_timeout, 0.001))
        fetched = {} if result.state_lost else await _fetch(session, asked.fetch_files)
    finally:
        await session.close()
    return _code_answer(result, fetched)


async def run_jupyter(pool: SandboxPool, asked: JupyterRequest) -> dict[str, JsonValue]:
    """Run cells in one fresh interpreter; an error in one does not stop the next.

    Raises SandboxError when the box failed.
    """
    session = await pool.acquire()
    try:
        await _put(session, asked.files)
        began = time.monotonic()
        results: list[ExecResult] = []
        for cell in asked.cells:
            left_s = asked.total_timeout - (time.monotonic() - began)
            limit_s = min(left_s, asked.cell_timeout) if asked.cell_timeout > 0 else left_s
            results.append(await session.run(cell, timeout_s=max(limit_s, 0.001)))
            if results[-1].state_lost or results[-1].status == "timeout":
                break
        broken = bool(results) and (results[-1].state_lost or results[-1].status == "timeout")
        fetched = {} if broken else await _fetch(session, asked.fetch_files)
    finally:
        await session.close()
    return _jupyter_answer(results, broken, time.monotonic() - began, fetched)


@cache
def _inside() -> tuple[str, str]:
    """Source of `inside`, and its code for sessions of this very Python: a tenth of the time."""
    source = resource_files("agentrl.serve").joinpath("inside.py").read_text(encoding="utf-8")
    compiled = marshal.dumps(compile(source, "<agentrl>", "exec"))
    return source, base64.b64encode(compiled).decode()


_CALL = (
    "(lambda inside, source, compiled: (exec("
    "__import__('marshal').loads(__import__('base64').b64decode(compiled))"
    " if __import__('importlib.util').util.MAGIC_NUMBER == {magic!r}"
    " else compile(source, '<agentrl>', 'exec'), inside), inside[{name!r}]({told}))[1])"
    "({{'__name__': 'agentrl_inside', '__file__': '<agentrl>'}}, *{inside!r})"
)


def _call(name: str, *arguments: object) -> str:
    """A cell that calls a function of `inside`, loaded out of sight of the session's namespace."""
    told = ", ".join(repr(argument) for argument in arguments)
    return _CALL.format(magic=MAGIC_NUMBER, name=name, told=told, inside=_inside())


async def _put(session: Sandbox, files: Mapping[str, str]) -> None:
    if files:
        result = await session.run(_call("put", dict(files)), timeout_s=_HOUSEKEEPING_S)
        if result.status != "ok":
            raise BadRequest(f"the files could not be written: {result.error or result.status}")


async def _fetch(session: Sandbox, names: Sequence[str]) -> dict[str, str]:
    """Contents as base64 of those files that are there and small enough."""
    found: dict[str, str] = {}
    for name in names:
        result = await session.run(_call("size", name, MAX_FILE_BYTES), timeout_s=_HOUSEKEEPING_S)
        count = int(result.value or -1) if (result.value or "").lstrip("-").isdigit() else -1
        if result.status != "ok" or not 0 <= count <= MAX_FILE_BYTES:
            continue
        content = bytearray()
        for start in range(0, count, _PART_BYTES):
            part = await session.run(
                _call("get", name, start, _PART_BYTES), timeout_s=_HOUSEKEEPING_S
            )
            try:
                content += base64.b64decode(part.value or "", validate=True)
            except (binascii.Error, ValueError):
                raise SandboxError(f"the file {name!r} could not be read") from None
        found[name] = base64.b64encode(content).decode()
    return found


def _command(result: ExecResult, return_code: int | None) -> dict[str, JsonValue]:
    over = result.status in ("timeout", "cpu_limit")
    return {
        "status": "TimeLimitExceeded" if over else "Finished",
        "execution_time": result.wall_s,
        "cpu_time": result.cpu_s,
        "return_code": None if over else return_code,
        "stdout": result.stdout,
        "stderr": result.stderr,
    }


def _facts(result: ExecResult) -> dict[str, JsonValue]:
    return {
        "status": result.status, "isolation": result.isolation, "cpu_s": result.cpu_s,
        "queue_s": result.queue_s, "peak_rss_mb": result.peak_rss_mb,
        "stdout_dropped": result.stdout_dropped, "stderr_dropped": result.stderr_dropped,
    }  # fmt: skip


def _return_code(result: ExecResult) -> int:
    if result.status == "ok":
        try:
            return int(json.loads(result.value or "")["exit_code"])
        except (ValueError, TypeError, KeyError):
            return 1  # the program broke what was to tell
    if result.signal is not None:
        return -result.signal
    return 1 if result.exit_code is None else result.exit_code


def _code_answer(result: ExecResult, fetched: Mapping[str, str]) -> dict[str, JsonValue]:
    code = _return_code(result)
    run = _command(result, code)
    if result.status in ("oom", "output_limit"):
        run["stderr"] = f"{result.stderr}\n{result.error or 'out of memory'}".lstrip("\n")
    good = run["status"] == "Finished" and code == 0
    return {
        "status": "Success" if good else "Failed",
        "message": "",
        "compile_result": None,
        "run_result": run,
        "executor_pod_name": None,
        "files": dict(fetched),
        "agentrl": _facts(result),
    }


def _jupyter_answer(
    results: Sequence[ExecResult], broken: bool, wall_s: float, fetched: Mapping[str, str]
) -> dict[str, JsonValue]:
    last = results[-1] if results else ExecResult("ok")
    driver = {**_command(last, _return_code(last) if broken else 0), "execution_time": wall_s}
    driver |= {"stdout": "", "stderr": (last.error or last.status) if broken else ""}
    return {
        "status": "Failed" if broken else "Success",
        "message": (last.error or last.status) if broken else "",
        "driver": driver,
        "cells": [_cell(result) for result in results],
        "executor_pod_name": None,
        "files": dict(fetched),
        "agentrl": _facts(last),
    }


def _cell(result: ExecResult) -> dict[str, JsonValue]:
    stderr, mark, trace = result.stderr.rpartition(_TRACEBACK)
    if result.status != "error" or not mark:
        stderr, mark, trace = result.stderr, "", ""
    error: list[JsonValue] = []
    if result.status != "ok":
        name, _, message = (result.error or result.status).partition(": ")
        lines: list[JsonValue] = list((mark + trace).splitlines())
        error.append({"ename": name, "evalue": message, "traceback": lines})
    display: list[JsonValue] = [] if result.value is None else [{"text/plain": result.value}]
    return {"stdout": result.stdout, "stderr": stderr, "display": display, "error": error}


__all__ = ["CodeRequest", "JupyterRequest", "Unsupported", "refusal", "run_code", "run_jupyter"]
