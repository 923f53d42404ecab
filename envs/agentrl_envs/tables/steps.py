"""Solutions to check: the steps of a look-up, some of them falsified, each with its label.

A step is judged by itself against the table, as TaTToo's verifier judges (arXiv:2510.06217): a look-up is
right when the table says so, the conclusion is right when it is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from agentrl_envs.tables.questions import Call, Question, right
from agentrl_tools.exact import written
from agentrl_tools.table import look_up
from agentrl_tools.table_data import Table, number

_LABEL = re.compile(r"<label>\s*([+-]1)\s*</label>")
ASK = (
    "Check every step by itself against the table. Write for each step, in order, what you found and "
    "then <label>+1</label> if the step is right or <label>-1</label> if it is wrong."
)


@dataclass(frozen=True, slots=True)
class Solution:
    """Steps of a proposed solution and what each is worth."""

    steps: tuple[str, ...]
    labels: tuple[int, ...]
    """+1 or -1 per step."""
    checks: tuple[str, ...]
    """What the table really says, per step; the conclusion's is the answer."""

    @property
    def text(self) -> str:
        """The steps, numbered."""
        return "\n".join(f"Step {i}: {step}" for i, step in enumerate(self.steps, 1))


def propose(rng: Random, table: Table, question: Question) -> Solution:
    """A solution that is right in each step with probability one half, and in all sometimes."""
    steps: list[str] = []
    labels: list[int] = []
    checks: list[str] = []
    for call in question.calls:
        true = look_up(table, call).split(" (")[0]
        said = true if rng.random() < 0.5 else _falsified(rng, table, true)
        steps.append(f"{_spelled(call)} gives {said}.")
        labels.append(1 if said == true else -1)
        checks.append(true)
    answer = question.answer
    said = answer if rng.random() < 0.5 else _falsified(rng, table, answer)
    steps.append(f"So the answer is {said}.")
    labels.append(1 if right(answer, question.answer_kind, said) else -1)
    checks.append(answer)
    return Solution(tuple(steps), tuple(labels), tuple(checks))


def _spelled(call: Call) -> str:
    """A call in words: `sum of Age where Town = Vel`."""
    parts = [str(call["operation"])]
    parts += [f"of {call['column']}"] if "column" in call else []
    parts += [f"of {call['row']}"] if "row" in call else []
    parts += [f"where {call['where']}"] if "where" in call else []
    parts += [str(call["expression"])] if "expression" in call else []
    return " ".join(parts)


def _falsified(rng: Random, table: Table, true: str) -> str:
    """Another number of about the size, or another row's name."""
    value = number(true)
    if value is None:
        others = [row[0] for row in table.rows if row[0] != true]
        return rng.choice(others)
    step = Fraction(10) ** rng.randrange(max(1, len(str(abs(int(value)))) - 1))
    return written(value + rng.choice((-1, 1)) * rng.randint(1, 9) * step)


def read_labels(text: str) -> list[int]:
    """The labels in a verifier's text, in order."""
    return [int(found) for found in _LABEL.findall(text)]


def share_right(gold: Sequence[int], said: Sequence[int]) -> float:
    """Share of the steps whose label is right; a missing label is wrong, and so is all when more
    were given than there are steps."""
    if len(said) > len(gold):
        return 0.0
    return sum(a == b for a, b in zip(gold, said, strict=False)) / len(gold)
