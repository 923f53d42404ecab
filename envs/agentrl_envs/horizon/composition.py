r"""Chaining problems so that each needs the answer before it: R-HORIZON (arXiv:2510.08189).

A number x of problem k is replaced by `[variable{k}]`, and a line says how to get it from the answer
of the problem before: `[variable{k}] = [answer{k-1}] + d` with d = x - answer, so that every problem
keeps its own answer and can be read only once the one before is solved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from random import Random

from agentrl.verify.extract import last_answer_tag, last_boxed
from agentrl_envs.families.base import Style, as_integer
from agentrl_envs.horizon.problems import BARE, NUMBER, Problem

HEADING = "### Final Answers"
REQUEST = (
    "Solve the problems in order: each one needs the answer of the one before. Finish with\n"
    f"{HEADING}\n"
)


def difference(name: str, number: int, answer: int) -> str:
    """How `number` follows from `answer`, called `name`: `[answer1] - 2`, `[answer1] + 0`."""
    d = number - answer
    return f"{name} {'-' if d < 0 else '+'} {abs(d)}"


def chained(problem: Problem, k: int, before: int, rng: Random, style: Style = "plain") -> str:
    """Problem `k`, counted from 1, with one of its numbers taken from the answer `before` it."""
    numbers = BARE if style == "terse" else NUMBER
    spot = rng.choice(list(numbers.finditer(problem.question)))
    variable = f"v{k}" if style == "terse" else f"[variable{k}]"
    answer = f"a{k - 1}" if style == "terse" else f"[answer{k - 1}]"
    put = (
        "{" + variable + "}"
        if problem.latex and in_math(problem.question, spot.start())
        else variable
    )
    question = problem.question[: spot.start()] + put + problem.question[spot.end() :]
    told = difference(answer, int(spot.group()), before)
    if style == "terse":
        return f"{question} {variable}={told.replace(' ', '')}"
    return f"{question}\n{variable} = {told}"


def in_math(question: str, at: int) -> bool:
    """Whether a place of a LaTeX text lies in a formula."""
    before = question[:at]
    dollars = len(re.findall(r"(?<!\\)\$", before))
    opened = max(before.rfind(mark) for mark in ("\\(", "\\[", "\\begin{"))
    closed = max(before.rfind(mark) for mark in ("\\)", "\\]", "\\end{"))
    return dollars % 2 == 1 or opened > closed


def composed(problems: Sequence[Problem], rng: Random, style: Style = "plain") -> str:
    """All problems as one question."""
    asked = [problems[0].question]
    for k, (before, problem) in enumerate(pairwise(problems), 2):
        asked.append(chained(problem, k, before.answer, rng, style))
    if style == "terse":
        return "\n".join(f"{k}: {question}" for k, question in enumerate(asked, 1))
    blocks = [f"Problem {k}:\n{question}" for k, question in enumerate(asked, 1)]
    lines = [f"Problem {k}: \\boxed{{[answer{k}]}}" for k in range(1, len(problems) + 1)]
    return "\n\n".join([*blocks, REQUEST + "\n".join(lines)])


def written(answers: Sequence[int], style: Style = "plain") -> str:
    """The final answers in the form asked for."""
    if style == "terse":
        return f"<answer>{','.join(map(str, answers))}</answer>"
    lines = [f"Problem {k}: \\boxed{{{answer}}}" for k, answer in enumerate(answers, 1)]
    return "\n".join([HEADING, *lines])


def read(text: str, n: int, style: Style = "plain") -> list[int | None]:
    """The `n` final answers of a turn; None for one that is missing or no whole number."""
    if style == "terse":
        tag = (last_answer_tag(text) or "").split(",")
        found = [as_integer(part) for part in tag[:n]] if len(tag) <= n else []
        return [*found, *[None] * (n - len(found))]
    _, headed, tail = text.rpartition(HEADING)
    if not headed:
        return [None] * n
    boxes: dict[int, str | None] = {}
    parts = re.split(r"Problem ([0-9]{1,3}):", tail)
    for number, part in zip(parts[1::2], parts[2::2], strict=True):
        boxes[int(number)] = last_boxed(part)
    return [as_integer(boxes.get(k) or "") for k in range(1, n + 1)]


def right_before_wrong(gold: Sequence[int], given: Sequence[int | None]) -> int:
    """How many answers are right from the first one on."""
    for k, (wanted, got) in enumerate(zip(gold, given, strict=True)):
        if wanted != got:
            return k
    return len(gold)


def if_independent(rates: Sequence[float]) -> float:
    """Chance that all are right if the success rates of single problems were independent.

    What a horizon curve is compared with: .8 and .5 give .4.
    """
    return prod(rates)


__all__ = [
    "HEADING", "chained", "composed", "difference", "if_independent", "in_math", "read",
    "right_before_wrong", "written",
]  # fmt: skip
