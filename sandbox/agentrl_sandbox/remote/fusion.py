"""A stranger's SandboxFusion (2412.00535): one-shot runs, and state only by running cells again.

The schema says less than our contract. What it cannot tell stays at its default: CPU time, memory,
the value of a program's last expression. Its known faults are flagged: servers that stop reading a
program's output let it hang until its deadline, and one bad byte replaces a whole output.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, cast

from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, IsolationLevel
from agentrl_sandbox.capture import Capture
from agentrl_sandbox.remote.own import expected
from agentrl_sandbox.remote.wire import Body, Wire

DRAIN_BYTES = 128 << 10
"""Output after which a timeout may be the server's, which stopped reading."""
DECODE_ERROR = "[DecodeError]"
_ATTEMPTS = 3
_PAUSE_S = 0.2
_REPLAY_FACTOR, _REPLAY_SPARE_S = 2.0, 1.0
"""What earlier cells may take again, from what they took; the schema has one deadline for all."""
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class FusionTerms:
    """What every run on a server has in common."""

    isolation: IsolationLevel
    """What the user states; the server says nothing."""
    slack_s: float
    """Seconds the server may queue and tidy up beyond a run's own."""
    memory_mb: int
    """Sent as `memory_limit_MB`; -1 for the server's own limit."""
    output_bytes: int
    ran: Callable[[ExecResult], None]


async def run_code(wire: Wire, code: str, timeout_s: float, terms: FusionTerms) -> ExecResult:
    """One program in a process of its own. Raises SandboxError."""
    # A program that ends itself early with code 0 looks like success; the mark comes last.
    mark = f"[{token_hex(8)}]"
    body: Body = {
        "code": f"{code}\n\n__import__('os').write(2, {mark.encode()!r})\n",
        "language": "python",
        "run_timeout": timeout_s,
        "compile_timeout": timeout_s,
        "memory_limit_MB": terms.memory_mb,
        "files": {},
        "fetch_files": [],
    }
    fields, queue_s = await _asked(wire, "/run_code", body, timeout_s, terms)
    run = _object(fields.get("run_result"), "run_result")
    stderr = _text(run, "stderr")
    result = _command_result(run, mark in stderr, timeout_s, stderr.replace(mark, "", 1))
    return replace(_capped(result, terms), queue_s=queue_s)


async def _asked(
    wire: Wire, path: str, body: Body, timeout_s: float, terms: FusionTerms
) -> tuple[Body, float]:
    """The fields of an answer that is a result. Raises SandboxError.

    A status of SandboxError is the server's own fault and asked again, a few times.
    """
    began = time.monotonic()
    deadline = began + timeout_s + terms.slack_s
    fields: Body = {}
    for attempt in range(_ATTEMPTS):
        before_s = time.monotonic() - began
        left_s = max(deadline - time.monotonic(), 0.001)
        answer = await wire.ask("POST", path, body, budget_s=left_s)
        fields = expected(answer)
        status = fields.get("status")
        if status in ("Success", "Failed"):
            return fields, before_s + answer.queue_s
        if status != "SandboxError":
            raise SandboxError(
                f"the sandbox server answered {str(fields)[:200]}, which is no result"
            )
        if attempt + 1 < _ATTEMPTS:
            await asyncio.sleep(random.uniform(0.5, 1) * _PAUSE_S * 2**attempt)
    why = _text(fields, "message")[:300]
    raise SandboxError(
        f"the sandbox server failed {_ATTEMPTS} times: {why or 'it does not say why'}"
    )


def _command_result(run: Body, completed: bool, timeout_s: float, stderr: str) -> ExecResult:
    stdout = _text(run, "stdout")
    wall = run.get("execution_time")
    base = ExecResult(
        "ok", stdout=stdout, stderr=stderr,
        wall_s=float(wall) if isinstance(wall, int | float) else 0.0,
    )  # fmt: skip
    match run.get("status"):
        case "TimeLimitExceeded":
            return replace(base, status="timeout", error=_late(stdout, timeout_s))
        case "Finished":
            code = run.get("return_code")
            if isinstance(code, bool) or not isinstance(code, int):
                raise SandboxError(f"the sandbox server sent the return code {code!r}")
            return _ended(base, code, completed)
        case other:
            raise SandboxError(f"the sandbox server sent a run of status {other!r}")


def _late(stdout: str, timeout_s: float) -> str:
    said = f"TimeoutError: the code did not finish within {timeout_s:g} s"
    size = len(stdout.encode("utf-8", "replace"))
    if size < DRAIN_BYTES:
        return said
    return f"{said}; it had printed {size} bytes, and some servers stop reading then: print less"


def _ended(base: ExecResult, code: int, completed: bool) -> ExecResult:
    last = base.stderr.strip().rpartition("\n")[2]
    if code == 0 and completed:
        return base
    if code < 0 or code > 128:  # as Python and as shells tell a signal
        return replace(base, status="signal", signal=-code if code < 0 else code - 128)
    if code == 1 and re.match(r"[\w.]+(?::|$)", last):
        return replace(base, status="error", error=last)
    return replace(base, status="exited", exit_code=code)


def _capped(result: ExecResult, terms: FusionTerms) -> ExecResult:
    """Outputs cut to the limit, the isolation as stated, lost output flagged."""
    cut = {name: Capture(terms.output_bytes) for name in ("stdout", "stderr")}
    for name, capture in cut.items():
        capture.add(getattr(result, name).encode("utf-8", "replace"))
    error = result.error
    if DECODE_ERROR in (result.stdout[:13], result.stderr[:13]) and error is None:
        error = "the server lost the output, which was not UTF-8"
    result = replace(
        result,
        stdout=cut["stdout"].text(), stdout_dropped=cut["stdout"].dropped,
        stderr=cut["stderr"].text(), stderr_dropped=cut["stderr"].dropped,
        error=error, isolation=terms.isolation,
    )  # fmt: skip
    terms.ran(result)
    return result


class ReplaySandbox:
    """State by running all earlier cells again before each new one.

    Their side effects happen again, random numbers and clocks differ, and a session of n cells costs
    n squared; that is why it must be asked for.
    """

    def __init__(self, wire: Wire, terms: FusionTerms, released: Callable[[], None]) -> None:
        self._wire = wire
        self._terms = terms
        self._released = released
        self._lock = asyncio.Lock()
        self._cells: list[str] = []
        self._replay_s = 0.0
        self._closed = False

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """Execute `code` after all earlier cells; see the contract. Raises SandboxError."""
        async with self._lock:
            if self._closed:
                raise SandboxError("this sandbox session is closed")
            total_s = timeout_s + self._replay_s
            body: Body = {
                "cells": [*self._cells, code],
                "cell_timeout": 0,
                "total_timeout": total_s,
                "kernel": "python3",
                "files": {},
                "fetch_files": [],
            }
            fields, queue_s = await _asked(self._wire, "/run_jupyter", body, total_s, self._terms)
            result = replace(self._result(fields, timeout_s), queue_s=queue_s)
            if result.state_lost:
                self._forget()
            else:
                self._cells.append(code)
                self._replay_s = _REPLAY_FACTOR * result.wall_s + _REPLAY_SPARE_S
            return _capped(result, self._terms)

    def _result(self, fields: Body, timeout_s: float) -> ExecResult:
        driver = _object(fields.get("driver") or {}, "driver")
        wall = driver.get("execution_time")
        wall_s = float(wall) if isinstance(wall, int | float) else 0.0
        if fields.get("status") == "Failed":
            late = driver.get("status") == "TimeLimitExceeded" or wall_s >= timeout_s
            error = _late("", timeout_s) if late else "the kernel died"
            status = "timeout" if late else "exited"
            return ExecResult(status, error=error, wall_s=wall_s, state_lost=True)
        cells = fields.get("cells")
        if not isinstance(cells, list) or len(cast(list[object], cells)) != len(self._cells) + 1:
            raise SandboxError(f"the sandbox server answered for other cells: {str(cells)[:200]}")
        return replace(_cell_result(_object(cells[-1], "cells")), wall_s=wall_s)

    def _forget(self) -> None:
        self._cells.clear()
        self._replay_s = 0.0

    async def reset(self) -> None:
        """Forget all state; see the contract."""
        async with self._lock:
            self._forget()

    async def close(self) -> None:
        """Nothing lives on the server between runs. Idempotent."""
        if not self._closed:
            self._closed = True
            self._released()


def _cell_result(cell: Body) -> ExecResult:
    base = ExecResult("ok", stdout=_text(cell, "stdout"), stderr=_text(cell, "stderr"))
    errors, shown = _objects(cell, "error"), _objects(cell, "display")
    if errors:
        first = errors[0]
        name, value = _text(first, "ename"), _text(first, "evalue")
        lines = first.get("traceback")
        trace = "\n".join(map(str, lines)) if isinstance(lines, list) else ""
        error = f"{name}: {value}" if value else name
        return replace(base, status="error", error=error, stderr=base.stderr + _ANSI.sub("", trace))
    values = [s["text/plain"] for s in shown if isinstance(s.get("text/plain"), str)]
    return replace(base, value=str(values[-1])) if values else base


def _object(value: object, name: str) -> Body:
    if not isinstance(value, Mapping):
        raise SandboxError(f"the sandbox server sent {str(value)[:80]!r} as {name}")
    return cast(Body, value)


def _objects(body: Body, name: str) -> Sequence[Body]:
    value: Any = body.get(name)
    if not isinstance(value, list):
        raise SandboxError(f"the sandbox server sent {str(value)[:80]!r} as {name}")
    return [_object(item, name) for item in cast(list[object], value)]


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise SandboxError(f"the sandbox server sent {str(value)[:80]!r} as {name}")
    return value


__all__ = ["DECODE_ERROR", "DRAIN_BYTES", "FusionTerms", "ReplaySandbox", "run_code"]
