"""Grading code: the solution in one sandbox session, its test elsewhere, JSON between them.

    cases   trusted process --arguments--> solution's session        values compared here
    suite   tester's session --call--> trusted process --arguments--> solution's session
                            <--answer--                <--answer--   asserts run in the tester's

Expected values, asserts and the cases still to come never enter the process that runs the solution,
so nothing it reads, patches, prints or forges there tells it what to answer: a forged reply is an
answer like any other, and is compared. That holds as far as the pool isolates: below `lite` a session
may read another one's memory. The world's faults raise; everything else is a grade.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from agentrl.errors import UserError
from agentrl.sandbox import Sandbox, SandboxPool
from agentrl.verify.code.compare import same_output, same_value
from agentrl.verify.code.conversation import HARNESS, Conversation, Refused, TimedOut
from agentrl.verify.code.forms import (
    FunctionCase,
    FunctionCases,
    ProgramCases,
    Suite,
    Tests,
    built_in_error,
    sources_of,
)
from agentrl.verify.code.literals import decode


@dataclass(frozen=True, slots=True)
class GradeLimits:
    """What one grading may take."""

    case_s: float = 5.0
    """Of one call, one program run, the definition of the function, or one stretch of the test."""
    total_s: float = 60.0
    """Of the whole; cases not reached by then fail."""
    max_calls: int = 10_000
    """Calls of the solution that a suite may make."""
    tolerance: float = 0.0
    """By how much real numbers may differ from expected ones; suites say so themselves."""
    seed: int = 0
    """Of the random numbers that a suite draws."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What the tests said."""

    passed: int
    """Cases passed; a suite is one case."""
    cases: int
    reason: str = ""
    """Why the first failing case failed; empty when none did."""

    @property
    def correct(self) -> bool:
        """All cases passed, and there was one."""
        return self.passed == self.cases > 0


class Grader:
    """Grades code in sessions of one pool, a bounded number at a time."""

    def __init__(self, pool: SandboxPool, *, at_once: int = 8) -> None:
        self._pool = pool
        self._slots = asyncio.Semaphore(at_once)
        # A suite holds one session while it waits for the second: two of them doing so could
        # starve each other in a small pool.
        self._pairing = asyncio.Lock()

    async def grade(
        self,
        tests: Tests,
        code: str,
        limits: GradeLimits = GradeLimits(),
    ) -> Grade:
        """Run `code` against `tests`.

        Raises SandboxError when the box, not the code, failed; UserError for a test that cannot be
        carried over to another process.
        """
        async with self._slots:
            trial = _Trial(code, limits)
            match tests:
                case FunctionCases():
                    async with self._sessions(1) as (session,):
                        return await trial.function(Conversation(session, "Solution"), tests)
                case ProgramCases():
                    async with self._sessions(1) as (session,):
                        return await trial.programs(Conversation(session, "Solution"), tests)
                case Suite():
                    async with self._sessions(2) as (first, second):
                        solution = Conversation(first, "Solution")
                        return await trial.suite(solution, Conversation(second, "Tester"), tests)

    @asynccontextmanager
    async def _sessions(self, count: int) -> AsyncGenerator[list[Sandbox]]:
        async with AsyncExitStack() as stack:
            leased: list[Sandbox] = []
            async with AsyncExitStack() as pairing:
                if count > 1:
                    await pairing.enter_async_context(self._pairing)
                for _ in range(count):
                    leased.append(await self._pool.acquire())
                    stack.push_async_callback(_close, leased[-1])
            yield leased


async def _close(sandbox: Sandbox) -> None:
    await asyncio.shield(sandbox.close())


class _Trial:
    """One piece of code before its tests."""

    def __init__(self, code: str, limits: GradeLimits) -> None:
        self._code = code
        self._limits = limits
        self._deadline = asyncio.get_running_loop().time() + limits.total_s

    def _left_s(self) -> float:
        """Seconds the next step may take. Raises TimedOut when there are none."""
        left_s = self._deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise TimedOut(f"the {self._limits.total_s:g} s for all cases were used up")
        return min(left_s, self._limits.case_s)

    async def _define(self, solution: Conversation, tests: FunctionCases | Suite) -> None:
        sources = json.dumps(sources_of(tests, self._code))
        reply = await solution.ask("define", sources, tests.entry_point, timeout_s=self._left_s())
        if reply.get("defined") is not True:
            raise Refused(HARNESS)

    async def function(self, solution: Conversation, tests: FunctionCases) -> Grade:
        """All cases of a function in one session, which is renewed after a case that broke it."""
        tally = _Tally(len(tests.cases))
        await solution.begin()
        try:
            await self._define(solution, tests)
            for number, case in enumerate(tests.cases, 1):
                try:
                    tally.add(number, await self._case(solution, case))
                except Refused as error:
                    tally.add(number, str(error))
                    await solution.restart()
                    await self._define(solution, tests)
        except Refused as error:
            tally.note(str(error))
        return tally.grade()

    async def _case(self, solution: Conversation, case: FunctionCase) -> str:
        """Why a case failed; empty when it passed. Raises Refused when the session is unfit."""
        arguments = json.dumps([case.args, case.kwargs])
        reply = await solution.ask("call", arguments, False, timeout_s=self._left_s())
        raised = _raised(reply)
        if raised is not None:
            kind, message = raised
            wanted = built_in_error(case.raises)
            right = wanted is not None and issubclass(built_in_error(kind) or Exception, wanted)
            return "" if right else f"raised {message}"
        found = _returned(reply)
        if case.raises is not None:
            return f"returned a value instead of raising {case.raises}"
        if same_value(decode(case.expected), found, self._limits.tolerance):
            return ""
        return f"wrong value {_shown(found)}"

    async def programs(self, session: Conversation, tests: ProgramCases) -> Grade:
        """Every case in a fresh interpreter."""
        tally = _Tally(len(tests.cases))
        await session.begin()
        for number, case in enumerate(tests.cases, 1):
            try:
                left_s = self._left_s()
                if number > 1:
                    await session.restart()
                result = await session.program(self._code, case.stdin, left_s)
            except Refused as error:
                tally.add(number, str(error))
                continue
            if result.stdout_dropped:
                tally.add(number, f"printed {result.stdout_dropped} bytes too much")
            elif same_output(case.stdout, result.stdout, self._limits.tolerance):
                tally.add(number, "")
            else:
                tally.add(number, f"wrong output, beginning {result.stdout[:80]!r}")
        return tally.grade()

    async def suite(self, solution: Conversation, tester: Conversation, tests: Suite) -> Grade:
        """Carry every call of the test to the solution and every answer back."""
        await solution.begin()
        await tester.begin()
        try:
            await self._define(solution, tests)
            said = await tester.ask(
                "start", tests.prompt, tests.test, tests.entry_point, self._limits.seed,
                timeout_s=self._left_s(),
            )  # fmt: skip
            for _ in range(self._limits.max_calls):
                if "call" not in said:
                    return _outcome(said, tests)
                answer = await self._answer(solution, said["call"], tests.by_reference)
                said = await tester.ask("answer", answer, timeout_s=self._left_s())
        except Refused as error:
            return Grade(0, 1, str(error))
        return Grade(0, 1, f"the test made more than {self._limits.max_calls} calls")

    async def _answer(self, solution: Conversation, call: object, show: bool) -> str:
        """The solution's reply as JSON for the tester. Raises Refused when the test cannot go on."""
        reply = await solution.ask("call", json.dumps(call), show, timeout_s=self._left_s())
        raised = _raised(reply)
        if raised is not None:
            kind, message = raised
            if built_in_error(kind) is None:  # SystemExit and the like would end the tester
                raise Refused(f"raised {message}")
            return json.dumps({"raised": [kind, message]})
        _returned(reply)
        return json.dumps(
            {name: reply[name] for name in ("returned", "arguments") if name in reply}
        )


def _raised(reply: Mapping[str, Any]) -> tuple[str, str] | None:
    """Kind and message of the exception a call ended with, None when it returned."""
    if "raised" not in reply:
        return None
    raised = reply["raised"]
    if not (isinstance(raised, list) and len(cast(list[object], raised)) == 2):
        raise Refused(HARNESS)
    kind, message = cast(list[object], raised)
    return str(kind), str(message)[:500]


def _returned(reply: Mapping[str, Any]) -> object:
    """The decoded value of a call. Raises Refused when there is none."""
    if "unsaid" in reply:
        raise Refused(f"returned {str(reply['unsaid'])[:500]}")
    try:
        return decode(reply["returned"])
    except (KeyError, ValueError) as error:
        raise Refused(HARNESS) from error


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # Python refuses to write out very long numbers
        return "with a very long number in it"


def _outcome(said: Mapping[str, Any], tests: Suite) -> Grade:
    if "unsayable" in said:
        raise UserError(f"the test of {tests.entry_point} cannot be graded: {said['unsayable']}")
    if said.get("passed") is True:
        if said.get("calls"):
            return Grade(1, 1)
        return Grade(0, 1, "the test never called the solution")
    return Grade(0, 1, str(said.get("failed", "the test gave no outcome")))


class _Tally:
    """Counts cases and keeps the first reason."""

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self._passed = 0
        self._reason = ""

    def add(self, number: int, why: str) -> None:
        self._passed += not why
        if why:
            self.note(f"case {number}: {why}")

    def note(self, why: str) -> None:
        self._reason = self._reason or why

    def grade(self) -> Grade:
        return Grade(self._passed, self._cases, self._reason)


__all__ = ["Grade", "GradeLimits", "Grader"]
