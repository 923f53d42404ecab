"""The test runner: tells the model how its code fares on the task's public tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError
from agentrl.types import JsonValue, ToolResult
from agentrl.verify.code import FunctionCases, GradeLimits, ProgramCases, Tests
from agentrl.verify.code.extract import extract_code
from agentrl_tools.clip import clip_middle
from agentrl_tools.leased_grader import LeasedGrader


@final
class RunTests:
    """Runs code against the public tests of the task, in a fresh interpreter each time.

    Hidden tests stay with the environment: this tool is never given them.
    """

    name = "run_tests"
    parallel = False

    def __init__(self, *, case_s: float = 5.0, total_s: float = 20.0, max_chars: int = 400) -> None:
        """`case_s`, `total_s`: seconds of one case and of the whole; `max_chars`: the answer's budget."""
        self._limits = GradeLimits(case_s=case_s, total_s=total_s)
        self._max_chars = max_chars
        self._tests: Tests | None = None
        self._grader: LeasedGrader | None = None

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return "Runs your code on the task's public tests and tells which of them fail."

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """One argument, `code`."""
        code = {"type": "string", "description": "The whole solution, as Python source code."}
        return {"type": "object", "properties": {"code": code}, "required": ["code"]}

    def give(self, tests: Tests | None) -> None:
        """The public tests of the next episode; None when its task has none."""
        self._tests = tests

    async def open(self, ctx: Context) -> None:
        """Remember where to lease a sandbox."""
        self._grader = LeasedGrader(ctx)

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """How many tests pass, and why the first of the others fails.

        Raises ToolError without code or tests, SandboxError when the box failed.
        """
        code = str(arguments["code"])
        if not code.strip():
            raise ToolError("There is no code to test.")
        if self._tests is None:
            raise ToolError("This task has no public tests.")
        if self._grader is None:
            raise RuntimeError("open() the run_tests tool before calling it")
        entry_point = None if isinstance(self._tests, ProgramCases) else self._tests.entry_point
        grade = await self._grader.grade(self._tests, extract_code(code, entry_point), self._limits)
        said = f"{grade.passed} of {grade.cases} public tests pass."
        if grade.reason:
            said += f" First failure: {grade.reason}{_wanted(self._tests, grade.reason)}"
        clipped = clip_middle(said, self._max_chars)
        return ToolResult("", clipped.text, truncated=clipped.truncated)

    async def fork(self, n: int) -> list[RunTests]:
        """Copies with the same tests."""
        made = [
            RunTests(
                case_s=self._limits.case_s, total_s=self._limits.total_s, max_chars=self._max_chars
            )
            for _ in range(n)
        ]
        for tool in made:
            tool.give(self._tests)
        return made

    async def close(self) -> None:
        """Let go of the lease; the episode that granted it closes it."""
        self._grader = None


def _wanted(tests: Tests, reason: str) -> str:
    """What the failed case asked and expected: a public test hides nothing."""
    number = reason.removeprefix("case ").partition(":")[0]
    if not number.isdigit() or not isinstance(tests, FunctionCases | ProgramCases):
        return ""
    case = tests.cases[int(number) - 1]
    if isinstance(tests, ProgramCases):
        return f"; it should print {getattr(case, 'stdout', '')[:80]!r}"
    wanted = getattr(case, "raises", None) or repr(getattr(case, "expected", None))
    return f" for arguments {str(getattr(case, 'args', ''))[:120]}; expected {wanted[:80]}"
