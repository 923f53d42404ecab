"""The promises of `agentrl.sandbox`: a stateful interpreter whose facts can be trusted.

What code may do and must not is data, in `sandbox_cases`; here is what the pool promises beside
that, and the way from both to one report.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from agentrl.env import Forkable
from agentrl.sandbox import (
    LEVELS,
    ExecResult,
    Interruptible,
    OneShot,
    Sandbox,
    SandboxLimits,
    SandboxPool,
)
from agentrl.testing.result import Check, CheckResult, expect, promise, run_checks
from agentrl.testing.sandbox_cases import CASES, CaseResult, cell_of, planted_secret, run_cases

LONG_S = 20.0


async def check_sandbox(
    make_pool: Callable[[], SandboxPool],
    *,
    name: str = "",
    limits: SandboxLimits = SandboxLimits(),  # noqa: B008 - frozen
    told: Callable[[CheckResult], None] = lambda _: None,
) -> list[CheckResult]:
    """Test a sandbox back end against the contract and the hostile suite, about half a minute.

    Args:
        make_pool: makes a pool that is not yet open; one is opened for all checks.
        name: under which it is registered; leaks that are known of it must show.
        limits: what `make_pool` gives its sessions; bombs are sized by it.
        told: hears of each result at once.

    Hostile code is bounded and aims at things that the kit made, so that a pool that fails a check
    does little harm; on a pool of isolation `none` it is not run at all. Raises SandboxUnavailable
    when the pool cannot open here.
    """
    pool = make_pool()
    with planted_secret():
        await pool.open()
    try:
        results = await run_checks(pool_checks(pool))
        for result in results:
            told(result)
        cell = await cell_of(pool, name)
        judged = await run_cases(pool, CASES, cell, limits, told=lambda r: told(as_check(r)))
        return results + [as_check(result) for result in judged]
    finally:
        await pool.close()
        await pool.close()


def as_check(result: CaseResult) -> CheckResult:
    """A case's result as a line of the report."""
    remark = result.detail
    if result.outcome in ("known leak", "skipped"):
        return CheckResult(result.case.name, True, remark, result.outcome)
    return CheckResult(result.case.name, result.ok, remark)


def pool_checks(pool: SandboxPool) -> list[Check]:
    """What an open pool promises beside how it runs code."""
    bodies = [_isolation, _separate, _ended, _together, _twice, _counted]
    checks = [promise(body, pool) for body in (*bodies, _interrupted, _forked)]
    if isinstance(pool, OneShot):
        checks += [promise(body, pool) for body in (_once, _once_fails, _once_stuck)]
    return checks


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


async def _ended(pool: SandboxPool) -> None:
    """A session whose interpreter ended starts afresh."""
    async with leased(pool) as sandbox:
        ended = await sandbox.run("import os\nos._exit(0)", timeout_s=LONG_S)
        after = await sandbox.run("print(1)", timeout_s=LONG_S)
    expect(ended.state_lost, "state_lost is False")
    expect(after.stdout == "1\n", f"then print(1) gave {after}")


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


async def _interrupted(pool: SandboxPool) -> str | None:
    """Code can be interrupted from outside, and the session lives on."""
    async with leased(pool) as sandbox:
        if not isinstance(sandbox, Interruptible):
            return "not offered"
        await sandbox.interrupt()
        await sandbox.run("x = 41", timeout_s=LONG_S)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(sandbox.run("while True: pass", timeout_s=LONG_S))
            await asyncio.sleep(0.5)
            await sandbox.interrupt()
        after = await sandbox.run("x + 1", timeout_s=LONG_S)
    found = running.result()
    expect(found.status == "error", f"status {found.status}")
    expect((found.error or "").startswith("KeyboardInterrupt"), f"error {found.error!r}")
    expect(after.value == "42", f"then x + 1 gave {after.value!r}")
    return None


async def _forked(pool: SandboxPool) -> str | None:
    """Copies of a session go on from its state, each on its own."""
    async with leased(pool) as sandbox:
        if not isinstance(sandbox, Forkable):
            return "not offered"
        begin = "import random\nx = [41]\nopen('f', 'w').write('kept')"
        await sandbox.run(begin, timeout_s=LONG_S)
        copies: list[Sandbox] = list(await sandbox.fork(2))
        try:
            code = "x.append(1)\n(len(x), open('f').read())"
            found = [await copy.run(code, timeout_s=LONG_S) for copy in copies]
            mine = await sandbox.run("x", timeout_s=LONG_S)
            drawn = [await copy.run("random.random()", timeout_s=LONG_S) for copy in copies]
            await sandbox.close()
            after = [await copy.run("len(x)", timeout_s=LONG_S) for copy in copies]
        finally:
            for copy in copies:
                await copy.close()
    told = [result.value for result in found]
    expect(told == ["(2, 'kept')"] * 2, f"the copies gave {told}")
    expect(mine.value == "[41]", f"a copy's change shows in the original: {mine.value}")
    expect(drawn[0].value != drawn[1].value, "the copies draw the same random numbers")
    expect([r.value for r in after] == ["2", "2"], "the copies ended with the original")
    return None


async def _once(pool: OneShot) -> None:
    """One-shot runs share nothing."""
    first = await pool.run_once("x = 1\nopen('f', 'w').write('x')\nx + 1", timeout_s=LONG_S)
    code = "import os\n('x' in globals(), os.listdir())"
    second = await pool.run_once(code, timeout_s=LONG_S)
    expect((first.status, first.value) == ("ok", "2"), f"x + 1 gave {first}")
    expect(second.value == "(False, [])", f"the next one saw {second.value}")


async def _once_fails(pool: OneShot) -> None:
    """A one-shot run tells how it failed."""
    raised = await pool.run_once("print('kept')\n1 / 0", timeout_s=LONG_S)
    left = await pool.run_once("import os\nos._exit(3)", timeout_s=LONG_S)
    expect(raised.status == "error" and raised.stdout == "kept\n", f"1 / 0 gave {raised}")
    expect((left.status, left.exit_code) == ("exited", 3), f"os._exit(3) gave {left}")
    expect(not left.state_lost, "state_lost, where there is no state")


async def _once_stuck(pool: OneShot) -> None:
    """A one-shot run that never ends is cut off."""
    found = await pool.run_once("while True: pass", timeout_s=0.3)
    expect(found.status in ("timeout", "cpu_limit"), f"status {found.status}")
