"""The tasks' own solutions as a policy: `engine=scripted engine.script=code_solutions`.

It cannot program, so what it gets right shows that the path (loop, fence, sandbox, hidden tests) is
right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from agentrl.chat.base import Tokenizer
from agentrl.engine.base import Sampling
from agentrl.transcript import Int32Array
from agentrl.types import Task


def own_solutions(tasks: Sequence[Task], tokenizer: Tokenizer) -> SolutionScript:
    """The policy for a run's tasks."""
    return SolutionScript(tasks, tokenizer)


@final
class SolutionScript:
    """Finds its task by the question in the row and answers with the task's solution, fenced."""

    def __init__(self, tasks: Sequence[Task], tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A question may be the beginning of another one: the longest that fits is the row's.
        self._tasks = sorted(tasks, key=lambda task: len(task.question), reverse=True)

    def __call__(self, token_ids: Int32Array, sampling: Sampling, request: int) -> str:
        """The turn for a row. Raises ValueError when it holds no task's question."""
        text = self._tokenizer.decode(token_ids)
        for task in self._tasks:
            if task.question.rstrip() in text:
                return solution_turn(task)
        raise ValueError("the row holds none of the script's questions")


def solution_turn(task: Task) -> str:
    """The turn that gives a task's own solution; an empty block when it brings none."""
    return f"```python\n{solution_of(task)}\n```"


def solution_of(task: Task) -> str:
    """The whole program: of HumanEval's form the prompt and what continues it."""
    continues = task.metadata.get("prompt") == task.question
    return task.question + (task.answer or "") if continues else task.answer or ""


__all__ = ["SolutionScript", "own_solutions", "solution_of", "solution_turn"]
