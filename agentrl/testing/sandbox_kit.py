"""The promises of `agentrl.sandbox`: a stateful interpreter whose facts can be trusted.

What hostile code must not reach is in `hostile_kit`; it runs only on pools that claim isolation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic

from agentrl.sandbox import LEVELS, ExecResult, Sandbox, SandboxPool
from agentrl.testing.hostile_kit import hostile_checks
from agentrl.testing.result import Check, CheckResult, expect, promise, run_checks

SHORT_S = 1.0
LONG_S = 20.0


async def check_sandbox(
    make_pool: Callable[[], SandboxPool], *, hostile: bool = True
) -> list[CheckResult]:
    """Test a sandbox back end against the contract, about a minute.

    Args:
        make_pool: makes a pool that is not yet open; one is opened for all checks.
        hostile: also run code that attacks the machine, bounded so that a pool that fails the
            check is not harmed. Never run on a pool of isolation `none`.

    Raises SandboxUnavailable when the pool cannot open here.
    """
    pool = make_pool()
    await pool.open()
    try:
        checks = _checks(pool)
        if hostile and pool.isolation != "none":
            checks += hostile_checks(pool)
        return await run_checks(checks)
    finally:
        await pool.close()
        await pool.close()


def _checks(pool: SandboxPool) -> list[Check]:
    told = [
        Check(name, partial(_told, pool, code, field, expected))
        for name, code, field, expected in OUTCOMES
    ]
    rest = [_isolation, _separate, _forget, _stuck, _ended, _flood, _together, _twice, _counted]
    return told + [promise(body, pool) for body in rest]


OUTCOMES = (
    ("output is captured", "print('one'); print('two')", "stdout", "one\ntwo\n"),
    ("a last expression is echoed", "x = 2\nx * 21", "value", "42"),
    ("None is not echoed", "None", "value", None),
    ("stderr is kept apart", "import sys\nprint('bad', file=sys.stderr)", "stdout", ""),
    (
        "any Unicode survives",
        "print('\u00e9\U0001f980\u202e')",
        "stdout",
        "\u00e9\U0001f980\u202e\n",
    ),
    ("an exception is an error", "1 / 0", "status", "error"),
    ("an exception is named", "1 / 0", "error", "ZeroDivisionError: division by zero"),
    ("a syntax error is an error", "def", "status", "error"),
    ("endless recursion is an error", "def f(): return f()\nf()", "status", "error"),
    ("nobody waits for input", "input()", "status", "error"),
    ("os._exit is noticed", "import os\nos._exit(3)", "exit_code", 3),
    ("a crash is noticed", "import os\nos.abort()", "status", "signal"),
    ("output before an error is kept", "print('kept')\n1 / 0", "stdout", "kept\n"),
)
"""Name, code, field of the ExecResult, what it must be."""


@asynccontextmanager
async def leased(pool: SandboxPool) -> AsyncGenerator[Sandbox]:
    """A fresh interpreter, closed whatever happens."""
    sandbox = await pool.acquire()
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def run(pool: SandboxPool, code: str, timeout_s: float = LONG_S) -> ExecResult:
    """Run code in an interpreter of its own."""
    async with leased(pool) as sandbox:
        return await sandbox.run(code, timeout_s=timeout_s)


async def _told(pool: SandboxPool, code: str, field: str, expected: object) -> None:
    result = await run(pool, code)
    found = getattr(result, field)
    expect(found == expected, f"{field} is {found!r}, not {expected!r} (status {result.status})")


async def _isolation(pool: SandboxPool) -> str:
    """Results carry the probed isolation."""
    expect(pool.isolation in LEVELS, f"{pool.isolation!r} is not a level")
    found = (await run(pool, "1")).isolation
    expect(found == pool.isolation, f"the pool says {pool.isolation}, a result {found}")
    return found


async def _separate(pool: SandboxPool) -> None:
    """State lives on, in its own session only."""
    async with leased(pool) as one, leased(pool) as other:
        await one.run("x = 41", timeout_s=LONG_S)
        mine = await one.run("x + 1", timeout_s=LONG_S)
        theirs = await other.run("x", timeout_s=LONG_S)
    expect(mine.value == "42", f"x + 1 gave {mine.value!r} in the session that set x")
    expect(theirs.status == "error", "another session sees x")


async def _forget(pool: SandboxPool) -> None:
    """Reset forgets everything."""
    async with leased(pool) as sandbox:
        await sandbox.run("x = 41\nopen('note', 'w').write('x')", timeout_s=LONG_S)
        await sandbox.reset()
        after = await sandbox.run("import os\n('x' in globals(), os.listdir())", timeout_s=LONG_S)
    expect(after.value == "(False, [])", f"after reset: {after.value!r}")


async def _stuck(pool: SandboxPool) -> str:
    """An endless loop is cut off and the session lives on."""
    async with leased(pool) as sandbox:
        await sandbox.run("x = 41", timeout_s=LONG_S)
        started = monotonic()
        result = await sandbox.run("while True: pass", timeout_s=SHORT_S)
        took_s = monotonic() - started
        after = await sandbox.run("'x' in globals()", timeout_s=LONG_S)
    expect(result.status in ("timeout", "cpu_limit"), f"status {result.status}")
    expect(took_s < SHORT_S + 5, f"it took {took_s:.1f} s")
    told = f"state_lost is {result.state_lost}, but x is there: {after.value}"
    expect(after.value == str(not result.state_lost), told)
    return f"cut after {took_s:.1f} s"


async def _ended(pool: SandboxPool) -> None:
    """A session whose interpreter ended starts afresh."""
    async with leased(pool) as sandbox:
        ended = await sandbox.run("import os\nos._exit(0)", timeout_s=LONG_S)
        after = await sandbox.run("print(1)", timeout_s=LONG_S)
    expect(ended.state_lost, "state_lost is False")
    expect(after.stdout == "1\n", f"then print(1) gave {after}")


async def _flood(pool: SandboxPool) -> None:
    """A flood of output is cut and counted."""
    result = await run(pool, "print('a' * 3_000_000)")
    kept = len(result.stdout.encode())
    expect(kept < 3_000_000, "all of it was kept")
    dropped = result.stdout_dropped > 0 or result.status == "output_limit"
    expect(dropped, "nothing says that output was dropped")


async def _together(pool: SandboxPool) -> None:
    """Eight sessions run side by side."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(run(pool, f"print({i} ** 2)")) for i in range(8)]
    found = [task.result().stdout for task in running]
    expect(found == [f"{i**2}\n" for i in range(8)], f"{found}")


async def _twice(pool: SandboxPool) -> None:
    """Closing a session twice is harmless."""
    async with leased(pool) as sandbox:
        await sandbox.close()


async def _counted(pool: SandboxPool) -> None:
    """Statistics count sessions and runs."""
    before = pool.statistics()
    async with leased(pool) as sandbox:
        await sandbox.run("1", timeout_s=LONG_S)
        during = pool.statistics()
    after = pool.statistics()
    expect(during.open_sessions == before.open_sessions + 1, "an open session is not counted")
    expect(after.open_sessions == before.open_sessions, "a closed session is still counted")
    expect(after.runs == before.runs + 1, f"{after.runs - before.runs} runs counted for one")
