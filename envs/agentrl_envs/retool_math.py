"""Maths with a Python interpreter, after ReTool (arXiv:2504.11536).

Generated tasks of fourteen families, or tasks from a file. The episode ends at the first turn
without a call: reward 1 when its answer is right, else 0.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator
from functools import cache
from random import Random
from typing import Literal, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl.verify.extract import extract_answer
from agentrl.verify.math_answer import MathChecker
from agentrl_envs.demonstrator import Habit, answer_turn, demonstrate, habit_of
from agentrl_envs.families import FAMILIES, Family
from agentrl_envs.families.base import LEVELS, Draw, Style
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.python import PythonTool

ASK = "\n\nGive the result at the end as\n<answer>\n\\boxed{result}\n</answer>"
"""Follows the question in the `plain` style, whether or not a protocol describes tools."""

FRESH = 4096
"""A stream avoids the ids among its last tasks, counted up to this many at a time."""


@cache
def shared_checker() -> MathChecker:
    """The checker of every episode in this process: its worker processes cost seconds to start."""
    checker = MathChecker()
    atexit.register(checker.close)
    return checker


@final
class RetoolMath(ToolEnv):
    """Maths questions, solved in the head or with sandboxed Python."""

    protocol = "retool"
    random_ceiling = 0.02

    def __init__(
        self,
        *,
        tools: Literal["python", "none"] = "python",
        style: Style = "plain",
        families: tuple[str, ...] | None = None,
        levels: tuple[int, ...] = LEVELS,
        max_calls: int = 8,
        call_s: float = 30.0,
        timeout_s: float = 5.0,
        observation_chars: int = 400,
        tool_habit: float = 1.0,
        _checker: MathChecker | None = None,
    ) -> None:
        """Make one episode's environment.

        Args:
            tools: `none` takes the interpreter away and leaves everything else.
            style: `terse` questions and bare tags for tiny models, `plain` English otherwise.
            families: names of the task families to draw from; None for all.
            levels: difficulties to draw from, of 1, 2 and 3.
            max_calls: interpreter calls per episode.
            call_s: seconds one call may take, its start included.
            timeout_s: seconds one piece of code may run.
            observation_chars: budget of one result; longer ones lose their middle.
            tool_habit: how often `expert` uses the tool; below 1 it is partly wrong on purpose
                (see `demonstrator`), for making a model that has something left to learn.
            _checker: decides answers of tasks from files; None for the one all episodes share.

        Raises UserError on a family or level that does not exist.
        """
        if not 0 <= tool_habit <= 1:
            raise UserError(f"env.tool_habit is a probability, not {tool_habit:g}")
        if not 0 < timeout_s <= call_s:
            raise UserError(f"env.timeout_s is above 0 and at most env.call_s ({call_s:g})")
        if observation_chars < 2 or max_calls < 0:
            raise UserError("env.observation_chars is at least 2 and env.max_calls at least 0")
        python = PythonTool(timeout_s=timeout_s, max_chars=observation_chars)
        offered = (python,) if tools == "python" else ()
        super().__init__(offered, max_calls=max_calls, call_s=call_s)
        self.style: Style = style
        self.protocol = "retool_bare" if style == "terse" else "retool"
        self.families = _chosen(families)
        self.levels = _levels(levels)
        self.tool_habit = tool_habit
        self.expert_floor = 1.0 if tool_habit == 1 else None
        self._checker = _checker

    def first_messages(self, task: Task) -> Observation:
        """The question, as one user message."""
        if task.answer is None:
            raise UserError(f"task {task.id} has no answer; retool_math needs one to check against")
        return (Message("user", task.question + ("" if self.style == "terse" else ASK)),)

    async def judge(self, action: Action) -> StepResult:
        """Check the answer tag, or else the last box, of a turn without a call; then end."""
        prediction = extract_answer(action.text, ("answer", "boxed"))
        if prediction is None:
            return self._end(None, False)
        return self._end(prediction, await self._check(prediction))

    async def _check(self, prediction: str) -> bool | None:
        gold = str(self.task.answer)
        family = FAMILIES.get(str(self.task.metadata.get("family")))
        if family is not None:
            return family.matches(gold, prediction)
        verdict = await (self._checker or shared_checker()).check(gold, prediction)
        return verdict.correct

    def _end(self, answer: str | None, correct: bool | None) -> StepResult:
        excluded = "unverified" if correct is None else None
        info = StepInfo(answer=answer, excluded=excluded)
        return StepResult((), 1.0 if correct else 0.0, True, False, info)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream of generated tasks.

        Every family comes once, in a new order, before any comes again; levels are uniform.
        Raises UserError on a split other than train and test.
        """
        if split not in ("train", "test"):
            raise UserError(f"retool_math has the splits train and test, not {split!r}")
        return self._stream(Draw(Random(derive("tasks", seed, split)), split))

    def _stream(self, draw: Draw) -> Iterator[Task]:
        seen: set[str] = set()
        while True:
            for family in draw.rng.sample(self.families, len(self.families)):
                task = self._fresh(family, draw, seen)
                seen.add(task.id)
                yield task
            if len(seen) > FRESH:
                seen.clear()

    def _fresh(self, family: Family, draw: Draw, seen: set[str]) -> Task:
        level = draw.rng.choice(self.levels)
        task = family.task(family.draw(draw, level), level, self.style)
        for _ in range(20):  # a small level may have run out of new ones
            if task.id not in seen:
                break
            task = family.task(family.draw(draw, level), level, self.style)
        return task

    def random_turn(self, rng: Random) -> str:
        """An answer of one to four digits."""
        return answer_turn(str(rng.randrange(10 ** rng.randint(1, 4))), self.style)

    def expert(self, task: Task, *, seed: int, habit: Habit | None = None) -> Iterable[str]:
        """The demonstrator's turns; `habit` None mixes habits by `tool_habit`."""
        chosen = habit or habit_of(task, seed=seed, tool_habit=self.tool_habit)
        return demonstrate(task, seed=seed, habit=chosen, style=self.style)


def _chosen(names: tuple[str, ...] | None) -> tuple[Family, ...]:
    unknown = [name for name in names or () if name not in FAMILIES]
    if unknown or names == ():
        raise UserError(
            f"env.families: {unknown[0]!r} is not a family; choose among {', '.join(FAMILIES)}"
            if unknown
            else "env.families is empty; name at least one or leave it out for all"
        )
    return tuple(FAMILIES[name] for name in names or FAMILIES)


def _levels(levels: tuple[int, ...]) -> tuple[int, ...]:
    if not levels or not set(levels) <= set(LEVELS):
        raise UserError(f"env.levels: choose some of 1, 2 and 3, not {list(levels)}")
    return tuple(levels)
