"""A mixed-skill demonstrator for generated maths tasks.

It shows what a person of uneven habits would do, so that a model that imitates it is only partly
skilled and reinforcement learning has something true to find. Per episode it picks one habit:

- `tool`: run the family's code, then copy the answer from the output. Always right, and wasteful
  where the head would do.
- `head`: answer at once. Right where the head suffices (`need == "head"`); elsewhere a guess, a
  number of the right length drawn uniformly, hence nearly always wrong.

At `tool_habit=1`, the default, every demonstration is right. At 0.6 an imitator is right about 60 %
of the time on questions that need code: the wrong demonstrations are deliberate.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from agentrl.seeds import derive
from agentrl.types import Task
from agentrl_envs.families import FAMILIES
from agentrl_envs.families.base import Style, operands_of

Habit = Literal["tool", "head"]


def habit_of(task: Task, *, seed: int, tool_habit: float) -> Habit:
    """The habit shown on a task: `tool` with probability `tool_habit`."""
    return "tool" if Random(derive("habit", seed, task.id)).random() < tool_habit else "head"


def demonstrate(task: Task, *, seed: int, habit: Habit, style: Style) -> tuple[str, ...]:
    """The model's turns under one habit. Raises UserError when no family made the task."""
    operands = operands_of(task)
    family = FAMILIES[str(task.metadata["family"])]
    if habit == "head":
        guess = family.guess(operands, Random(derive("guess", seed, task.id)))
        return (answer_turn(guess, style),)
    cells = tuple(code_turn(cell, style) for cell in family.cells(operands))
    return (*cells, answer_turn(family.answer(operands), style))


def code_turn(code: str, style: Style) -> str:
    """A turn that runs `code`, in the ReTool tags."""
    if style == "terse":
        return f"<code>{code}</code>"
    return f"<code>\n```python\n{code}\n```\n</code>"


def answer_turn(answer: str, style: Style) -> str:
    """A turn that answers, in the ReTool tags."""
    if style == "terse":
        return f"<answer>{answer}</answer>"
    return f"<answer>\n\\boxed{{{answer}}}\n</answer>"
