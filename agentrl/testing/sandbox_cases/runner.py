"""Running cases on an open pool, several at a time, bombs one at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal, TypeAlias

from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, Sandbox, SandboxLimits, SandboxPool
from agentrl.testing.sandbox_cases.case import LONG_S, Case, Cell, Seen, User
from agentrl.testing.sandbox_cases.prelude import PRELUDE
from agentrl.testing.sandbox_cases.stage import Stage, lacking

Outcome: TypeAlias = Literal["held", "failed", "known leak", "leaks no more", "skipped"]
"""`leaks no more`: a leak that is declared did not show, which is a failure too."""

CASE_S = 90.0
AT_ONCE = 4
SPOILT_S = 3.0
"""Patience with a session that a case may have ruined."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case, judged in one cell."""

    case: Case
    outcome: Outcome
    detail: str = ""
    """What went wrong, why it is known to, or why it was not run."""
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the case went as its declaration says."""
        return self.outcome in ("held", "known leak", "skipped")


async def cell_of(pool: SandboxPool, backend: str) -> Cell:
    """The cell of an open pool. Raises SandboxError when it gives no session."""
    return Cell(backend, pool.isolation, await _user(pool))


async def _user(pool: SandboxPool) -> User:
    if os.geteuid() != 0:
        return "ordinary"
    session = await pool.acquire()
    try:
        found = await session.run("import os\nos.getuid()", timeout_s=LONG_S)
    finally:
        await session.close()
    return "root" if found.value == "0" else "apart"


async def run_cases(
    pool: SandboxPool,
    cases: Sequence[Case],
    cell: Cell,
    limits: SandboxLimits,
    *,
    at_once: int = AT_ONCE,
    told: Callable[[CaseResult], None] = lambda _: None,
) -> list[CaseResult]:
    """Judge every case. Results come in the order of `cases`, `told` hears of each at once.

    Args:
        limits: what the pool was made with; bombs are sized by it.
        at_once: cases that may run side by side.
    """
    places, bomb = asyncio.Semaphore(at_once), asyncio.Lock()
    results: dict[str, CaseResult] = {}

    async def judge(case: Case) -> None:
        async with places if case.danger in ("harmless", "escape") else bomb:
            began = monotonic()
            result = await run_case(pool, case, cell, limits)
            results[case.name] = replace(result, took_s=monotonic() - began)
        told(results[case.name])

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(judge(case))
    return [results[case.name] for case in cases]


async def run_case(pool: SandboxPool, case: Case, cell: Cell, limits: SandboxLimits) -> CaseResult:
    """Judge one case. Never raises for what the pool or the code does."""
    if reason := _not_here(case, cell):
        return CaseResult(case, "skipped", reason)
    try:
        async with asyncio.timeout(CASE_S):
            wrong = await _judged(pool, case, limits)
    except TimeoutError:
        wrong = f"not finished within {CASE_S:g} s"
    except SandboxError as error:
        wrong = f"the box itself failed: {error}"
    except AssertionError as error:
        wrong = str(error) or "assertion failed"
    known = case.known_leak(cell)
    if known is None:
        return CaseResult(case, "failed" if wrong else "held", wrong)
    if wrong or not known.certain:
        return CaseResult(case, "known leak", known.reason)
    told = f"it held, but is declared to leak here: {known.reason}"
    return CaseResult(case, "leaks no more", told)


def _not_here(case: Case, cell: Cell) -> str:
    if cell.level == "none" and case.danger != "harmless":
        return "not run without isolation"
    return lacking(case.needs)


async def _judged(pool: SandboxPool, case: Case, limits: SandboxLimits) -> str:
    stage = await asyncio.to_thread(_raised, case)
    try:
        acted = _Acting(pool, stage, limits)
        try:
            for step in case.steps:
                await acted.take(step.who, step.code, step.timeout_s, step.reset, step.pause_s)
            usable = await acted.usable()
        finally:
            closed_s = await acted.close()
        seen = Seen(tuple(acted.results), tuple(acted.took_s), closed_s, stage, limits)
        return await asyncio.to_thread(case.verdict, seen) or usable
    finally:
        await asyncio.to_thread(stage.__exit__, None, None, None)


def _raised(case: Case) -> Stage:
    return Stage(case.needs).__enter__()


class _Acting:
    """The sessions of one case and what came of its steps."""

    def __init__(self, pool: SandboxPool, stage: Stage, limits: SandboxLimits) -> None:
        self._pool = pool
        facts = stage.told(limits.memory_mb, limits.disk_mb, limits.open_files)
        named = "\n".join(f"{name} = {value!r}" for name, value in facts.items())
        self._prelude = f"{PRELUDE}\n{named}\n"
        self._sessions: dict[str, Sandbox] = {}
        self.results: list[ExecResult] = []
        self.took_s: list[float] = []

    async def take(
        self, who: str, code: str, timeout_s: float, reset: bool, pause_s: float
    ) -> None:
        """Run one step."""
        fresh = reset
        if who not in self._sessions:
            self._sessions[who] = await self._pool.acquire()
            fresh = True
        session = self._sessions[who]
        await asyncio.sleep(pause_s)
        if reset:
            await session.reset()
        if fresh:
            earlier = f"EARLIER = {[result.value for result in self.results]!r}\n"
            told = await session.run(self._prelude + earlier, timeout_s=LONG_S)
            if told.status != "ok":
                raise SandboxError(f"the prelude ended as {told.status}: {told.error}")
        began = monotonic()
        self.results.append(await session.run(code, timeout_s=timeout_s))
        self.took_s.append(monotonic() - began)

    async def usable(self) -> str:
        """Whether each session works on, at the latest after a reset; empty when it does."""
        for session in self._sessions.values():
            found = await session.run("6 * 7", timeout_s=SPOILT_S)
            if found.value != "42":
                await session.reset()
                found = await session.run("6 * 7", timeout_s=LONG_S)
            if (found.status, found.value) != ("ok", "42"):
                return f"afterwards 6 * 7 gave {found.status}, {found.value!r}: {found.error}"
        return ""

    async def close(self) -> float:
        """Close every session; returns the seconds it took."""
        began = monotonic()
        for session in self._sessions.values():
            await session.close()
        return monotonic() - began


def not_ok(results: Iterable[CaseResult]) -> list[CaseResult]:
    """Those that did not go as declared."""
    return [result for result in results if not result.ok]
