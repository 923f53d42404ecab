"""What is discussed: maths problems that all can read, or numbers of which everybody sees a part."""

from __future__ import annotations

from hashlib import blake2b
from random import Random
from typing import cast

from agentrl.errors import UserError
from agentrl.types import Task
from agentrl_envs.families.base import Draw, Split, Style
from agentrl_envs.horizon.problems import Problems

ASKED = {"max": "the largest", "min": "the smallest", "sum": "the sum"}
"""What is asked of all numbers together."""


def whole(problems: Problems, rng: Random, split: Split) -> Task:
    """A problem that every agent reads alike."""
    problem = problems.draw(rng, split)
    return _task(problem.question, str(problem.answer), "all")


def parted(rng: Random, split: Split, agents: int, style: Style) -> Task:
    """Two numbers for each agent, which nobody else sees, and a question about all of them."""
    asked = rng.choice(list(ASKED))
    draw = Draw(rng, split)
    numbers = [[draw.digits(2), draw.digits(2)] for _ in range(agents)]
    values = [int(number) for pair in numbers for number in pair]
    answer = combined(asked, values)
    if style == "terse":
        question = f"{asked} of all?"
        parts = [" ".join(pair) for pair in numbers]
    else:
        question = f"Each of you holds two numbers. What is {ASKED[asked]} of all the numbers?"
        parts = [f"Your numbers are {a} and {b}." for a, b in numbers]
    task = _task("\n".join([question, *parts]), str(answer), "part")
    more = {"question": question, "parts": parts, "asked": asked, "numbers": numbers}
    return Task(task.id, task.question, task.answer, {**task.metadata, **more})


def combined(asked: str, values: list[int]) -> int:
    """The answer to a question about all of `values`."""
    return max(values) if asked == "max" else min(values) if asked == "min" else sum(values)


def read_by(task: Task, agent: int) -> str:
    """The question as agent number `agent`, from 0, reads it.

    Raises UserError when the task was made for fewer agents.
    """
    parts = task.metadata.get("parts")
    if not isinstance(parts, list | tuple):
        return task.question
    held = cast("list[str]", parts)
    if agent >= len(held):
        raise UserError(f"task {task.id} has parts for {len(held)} agents; set env.agents to that")
    return f"{task.metadata['question']}\n{held[agent]}"


def known_to(task: Task, agent: int) -> str:
    """What an agent can answer before it has heard the others."""
    numbers = task.metadata.get("numbers")
    if not isinstance(numbers, list | tuple):
        return str(task.answer)
    own = cast("list[list[str]]", numbers)[agent]
    return str(combined(str(task.metadata["asked"]), [int(number) for number in own]))


def _task(question: str, answer: str, sees: str) -> Task:
    digest = blake2b(question.encode(), digest_size=6).hexdigest()
    return Task(f"discussion/{sees}/{digest}", question, answer, {"sees": sees})


__all__ = ["combined", "known_to", "parted", "read_by", "whole"]
