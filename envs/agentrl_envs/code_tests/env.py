"""Programs written to order and judged by hidden tests: generated ones, HumanEval, LiveCodeBench.

The last turn's code runs in the episode's sandbox, made fresh, and never in the process that knows what
it should say (`agentrl.verify.code`). Reward 1 when every hidden test passes, else 0 (or the share).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import Literal, final

from agentrl.context import Context
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.tool import Tool
from agentrl.types import Message, Task
from agentrl.verify.code import GradeLimits, ProgramCases, Tests, tests_of
from agentrl.verify.code.extract import extract_code
from agentrl_envs.code_tests.problems import PROBLEMS, Problem
from agentrl_envs.code_tests.script import solution_of, solution_turn
from agentrl_envs.code_tests.tasks import Form, make_task
from agentrl_envs.families.base import Draw
from agentrl_envs.hermes_turns import call_turn
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.leased_grader import LeasedGrader
from agentrl_tools.run_tests import RunTests

ASK = "Give the whole solution in a ```python block."
FRESH = 4096
"""A stream avoids the ids among its last tasks, counted up to this many at a time."""


@final
class CodeTestsEnv(ToolEnv):
    """Programming problems judged by hidden tests; public ones may be run on the way."""

    protocol = "hermes"
    uses_sandbox = True
    expert_floor = 1.0
    random_ceiling = 0.05

    def __init__(
        self,
        *,
        tools: Literal["run_tests", "none"] = "run_tests",
        score: Literal["all", "fraction"] = "all",
        forms: tuple[Form, ...] = ("function", "program"),
        families: tuple[str, ...] | None = None,
        levels: tuple[int, ...] = (1, 2, 3),
        hidden: int = 8,
        max_calls: int = 4,
        call_s: float = 30.0,
        case_s: float = 5.0,
        total_s: float = 60.0,
        tolerance: float = 0.0,
    ) -> None:
        """Make one episode's environment.

        Args:
            tools: `run_tests` lets the model try its code on the public tests.
            score: 1 only when all hidden tests pass, or the `fraction` of them.
            forms: `function` with arguments, `program` with standard input and output.
            families: generated families to draw from; None for all.
            levels: difficulties to draw from, of 1, 2 and 3.
            hidden: hidden cases of a generated problem, from 1 to 50.
            max_calls: calls per episode.
            call_s: seconds one call may take.
            case_s: seconds one test may take.
            total_s: seconds all hidden tests may take.
            tolerance: by how much numbers may differ from expected ones.

        Raises UserError on a family or level that does not exist, or a limit out of range.
        """
        offered: list[Tool] = [RunTests(case_s=case_s)] if tools == "run_tests" else []
        super().__init__(offered, max_calls=max_calls, call_s=call_s)
        if min(case_s, total_s) <= 0 or tolerance < 0 or not 1 <= hidden <= 50 or not forms:
            raise UserError(
                "code_tests needs case_s and total_s > 0, tolerance >= 0, hidden from 1 to 50, and "
                "at least one form"
            )
        self._fraction = score == "fraction"
        self._limits = GradeLimits(case_s=case_s, total_s=total_s, tolerance=tolerance)
        self._forms: tuple[Form, ...] = tuple(forms)
        self._problems = _problems(families, levels)
        self._hidden = hidden
        self._grader = LeasedGrader(Context())

    async def open(self, ctx: Context) -> None:
        """Bind tools and grader to the episode, those of a copy too."""
        self._grader = LeasedGrader(ctx)
        await super().open(ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Hand the public tests, and those only, to the tool."""
        for tool in self.tools:
            if isinstance(tool, RunTests):
                tool.give(_public(task))
        return await super().reset(task, seed=seed)

    def first_messages(self, task: Task) -> Observation:
        """The problem; of HumanEval's form the opening of the function, to be completed."""
        tests_of(task)  # a task that cannot be graded is refused before it is played
        question = task.question
        if task.metadata.get("prompt") == question:
            question = f"Complete this function.\n```python\n{question.rstrip()}\n```"
        return (Message("user", f"{question}\n\n{ASK}"),)

    async def judge(self, action: Action) -> StepResult:
        """Run the hidden tests on the turn's code; then end."""
        return await self.answered(action.text)

    async def answered(self, answer: str) -> StepResult:
        """Grade code, fenced or bare, and end. Raises SandboxError when the box failed."""
        tests = tests_of(self.task)
        code = extract_code(answer, _entry_point(tests))
        limits = replace(self._limits, seed=derive("code_tests", self.task.seed, self.task.id))
        grade = await self._grader.grade(tests, code, limits)
        share = grade.passed / grade.cases if self._fraction else float(grade.correct)
        return StepResult((), share, True, False, StepInfo(answer=code))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream of generated problems; no number of one split is in the other.

        Raises UserError on a split other than train and test.
        """
        if split not in ("train", "test"):
            raise UserError(f"code_tests has the splits train and test, not {split!r}")
        return self._stream(Draw(Random(derive("code_tests", seed, split)), split))

    def _stream(self, draw: Draw) -> Iterator[Task]:
        seen: set[str] = set()
        while True:
            for problem in draw.rng.sample(self._problems, len(self._problems)):
                task = self._made(problem, draw)
                for _ in range(20):  # a family may have run out of new ones
                    if task.id not in seen:
                        break
                    task = self._made(problem, draw)
                seen.add(task.id)
                yield task
            if len(seen) > FRESH:
                seen.clear()

    def _made(self, problem: Problem, draw: Draw) -> Task:
        form = draw.rng.choice(self._forms)
        return make_task(draw.rng, problem, problem.drawn(draw), form, self._hidden)

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """Tries the known solution on the public tests, then gives it.

        Raises UserError for a task that brings none.
        """
        if not task.answer:
            raise UserError(f"task {task.id} brings no solution, so nobody can show one")
        if self.tools and _public(task) is not None:
            yield call_turn("run_tests", code=solution_of(task))
        yield solution_turn(task)

    def random_turn(self, rng: Random) -> str:
        """A function or program that answers blindly."""
        value = rng.choice((str(rng.randint(0, 99)), "None", "''", "[]", "args[0]"))
        return (
            f"```python\ndef solve(*args):\n    return {value}\n"
            f"if __name__ == '__main__':\n    print(solve(input()))\n```"
        )


def _entry_point(tests: Tests) -> str | None:
    return None if isinstance(tests, ProgramCases) else tests.entry_point


def _public(task: Task) -> Tests | None:
    """The tests that the model may run; None without any."""
    public = task.metadata.get("public")
    if not public:
        return None
    return tests_of(replace(task, metadata={**task.metadata, "cases": public}))


def _problems(families: tuple[str, ...] | None, levels: tuple[int, ...]) -> tuple[Problem, ...]:
    unknown = [name for name in families or () if name not in PROBLEMS]
    if unknown:
        raise UserError(f"env.families: {unknown[0]!r} is none; choose among {', '.join(PROBLEMS)}")
    if not levels or not set(levels) <= {1, 2, 3}:
        raise UserError(f"env.levels: choose some of 1, 2 and 3, not {list(levels)}")
    chosen = tuple(p for n in families or PROBLEMS if (p := PROBLEMS[n]).level in levels)
    if not chosen:
        raise UserError("env.families and env.levels leave no family; widen one of them")
    return chosen


__all__ = ["CodeTestsEnv"]
