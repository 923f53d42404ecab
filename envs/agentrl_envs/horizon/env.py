"""Chains of maths problems, after R-HORIZON (arXiv:2510.08189).

The paper trains with the reward that all answers are right; the reward of the last one alone is its
variant. `prefix` pays for each right answer before the first wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from random import Random
from typing import Literal, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl_envs.families.base import Split, Style
from agentrl_envs.fresh import fresh
from agentrl_envs.horizon.composition import composed, read, right_before_wrong, written
from agentrl_envs.horizon.problems import Problems, filed, generated
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.python import PythonTool

MOST = 16
"""Problems in a chain."""


@final
class Horizon(ToolEnv):
    """Chained maths problems: each needs the answer of the one before (R-HORIZON)."""

    expert_floor = 1.0
    random_ceiling = 0.05

    def __init__(
        self,
        *,
        n: tuple[int, ...] = (2,),
        path: str | None = None,
        families: tuple[str, ...] | None = None,
        levels: tuple[int, ...] = (1,),
        reward: Literal["all", "prefix", "last"] = "all",
        tools: Literal["none", "python"] = "none",
        style: Style = "plain",
        max_calls: int = 8,
        call_s: float = 30.0,
    ) -> None:
        """Make one episode's environment.

        Args:
            n: lengths of chains to draw from, each from 1 to 16.
            path: a jsonl file of problems (GSM8K, MATH, AIME columns); None for generated ones.
            families: generated families to draw from; None for all with whole-number answers.
            levels: their difficulties, of 1, 2 and 3.
            reward: `all` answers right (the paper's), share right before the first wrong one
                (`prefix`), or the `last` one alone.
            tools: `python` offers the sandboxed interpreter as well.
            style: `terse` questions for tiny models, `plain` blocks as in the paper otherwise.
            max_calls: interpreter calls per episode.
            call_s: seconds one call may take.

        Raises UserError on lengths, families, levels or a file that cannot be used.
        """
        super().__init__(
            (PythonTool(),) if tools == "python" else (), max_calls=max_calls, call_s=call_s
        )
        if not n or not all(1 <= length <= MOST for length in n):
            raise UserError(f"env.n: lengths are from 1 to {MOST}, not {list(n)}")
        if path is not None and style == "terse":
            raise UserError(
                "env.path holds whole texts: set env.style=plain, or leave env.path out"
            )
        bare = "retool_bare" if style == "terse" else "retool"
        self.protocol = bare if tools == "python" or style == "terse" else "hermes"
        self.n = tuple(n)
        self.problems: Problems = (
            generated(families, levels, style) if path is None else filed(path)
        )
        self.reward: Literal["all", "prefix", "last"] = reward
        self.style: Style = style

    def first_messages(self, task: Task) -> Observation:
        """The whole chain, as one user message. Raises UserError for a task that is no chain."""
        _targets(task)
        return (Message("user", task.question),)

    async def judge(self, action: Action) -> StepResult:
        """Compare the final answers with the targets; then end."""
        gold = _targets(self.task)
        given = read(action.text, len(gold), self.style)
        answer = ",".join("" if a is None else str(a) for a in given)
        info = StepInfo(answer=answer if any(a is not None for a in given) else None)
        return StepResult((), self.score(gold, given), True, False, info)

    def score(self, gold: list[int], given: list[int | None]) -> float:
        """The reward of the given answers."""
        right = right_before_wrong(gold, given)
        match self.reward:
            case "all":
                return float(right == len(gold))
            case "prefix":
                return right / len(gold)
            case "last":
                return float(given[-1] == gold[-1])

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream; no problem of one split is in a chain of the other.

        Raises UserError on a split other than train and test.
        """
        if split != "train" and split != "test":
            raise UserError(f"horizon has the splits train and test, not {split!r}")
        rng = Random(derive("horizon", seed, split))
        return fresh(lambda: self._drawn(rng, split))

    def _drawn(self, rng: Random, split: Split) -> Task:
        problems = [self.problems.draw(rng, split) for _ in range(rng.choice(self.n))]
        question = composed(problems, rng, self.style)
        digest = blake2b(question.encode(), digest_size=6).hexdigest()
        return Task(
            id=f"horizon/{len(problems)}/{digest}",
            question=question,
            answer=",".join(str(problem.answer) for problem in problems),
            metadata={"n": len(problems), "questions": [p.question for p in problems]},
        )

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """All answers at once, in the form asked for."""
        return (written(_targets(task), self.style),)

    def random_turn(self, rng: Random) -> str:
        """A random number for every problem of a longest chain."""
        return written([rng.randint(0, 999) for _ in range(max(self.n))], self.style)


def _targets(task: Task) -> list[int]:
    """All answers of a chain. Raises UserError for a task of another kind."""
    if "n" not in task.metadata or task.answer is None:
        raise UserError(f"task {task.id} is no chain; give the problems by env.path, not data.path")
    return [int(part) for part in task.answer.split(",")]


__all__ = ["Horizon"]
