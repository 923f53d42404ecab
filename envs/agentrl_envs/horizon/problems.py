"""Single problems with whole-number answers: generated families, or a file of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Protocol, cast

from agentrl.errors import UserError
from agentrl.types import JsonValue
from agentrl.verify.extract import last_boxed, last_hashes
from agentrl_envs.families import FAMILIES, Family
from agentrl_envs.families.base import LEVELS, Draw, Split, Style, as_integer, split_of

WHOLE = (
    "add", "max", "mul", "expr", "isqrt", "gcd", "powmod", "digitsum", "chain", "branch",
)  # fmt: skip
"""Families whose answers are whole numbers."""

NUMBER = re.compile(r"(?<![\w.\\])(?<![0-9],)[0-9]{1,9}(?![\w%]|\.[0-9]|,[0-9]{3})")
"""Digits that stand for a whole number of their own: no decimals, percentages, or 1,000s."""

BARE = re.compile(r"(?<!\w)[0-9]+(?!\w)")
"""The same in terse questions, where a comma only separates."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with whole numbers in it and a whole number as its answer."""

    question: str
    answer: int
    latex: bool = False
    """Whether the question is written in LaTeX, so that what replaces a number needs braces."""


class Problems(Protocol):
    """Draws problems of a split."""

    def draw(self, rng: Random, split: Split) -> Problem:
        """One problem; its question holds a whole number."""
        ...


@dataclass(frozen=True, slots=True)
class Generated:
    """Problems of the generated maths families; operands tell the splits apart."""

    families: tuple[Family, ...]
    levels: tuple[int, ...]
    style: Style

    def draw(self, rng: Random, split: Split) -> Problem:
        """See `Problems.draw`."""
        family, level = rng.choice(self.families), rng.choice(self.levels)
        operands = family.draw(Draw(rng, split), level)
        return Problem(family.question(operands, self.style), int(family.answer(operands)))


@dataclass(frozen=True, slots=True)
class Filed:
    """Problems of a file; each question belongs to one split by a hash of its text."""

    by_split: Mapping[str, Sequence[Problem]]

    def draw(self, rng: Random, split: Split) -> Problem:
        """See `Problems.draw`."""
        return rng.choice(self.by_split[split])


def generated(families: tuple[str, ...] | None, levels: tuple[int, ...], style: Style) -> Generated:
    """Problems of families by name. Raises UserError on one that does not exist or fit."""
    names = WHOLE if families is None else families
    for name in names:
        if name not in WHOLE:
            raise UserError(
                f"env.families: {name!r} has no whole-number answers; choose among {', '.join(WHOLE)}"
            )
    if not names or not levels or not set(levels) <= set(LEVELS):
        raise UserError("env.families names at least one family and env.levels some of 1, 2 and 3")
    return Generated(tuple(FAMILIES[name] for name in names), tuple(levels), style)


@lru_cache(maxsize=8)
def filed(path: str) -> Filed:
    """Problems of a jsonl file with `question`/`problem`/`input` and `answer`/`solution`/`output`.

    Only those with a whole-number answer and a whole number in the question are kept, as in
    R-HORIZON. Raises UserError when the file cannot be read or leaves fewer than two to a split.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"env.path={path} cannot be read: {error}; give a jsonl file") from error
    by_split: dict[str, list[Problem]] = {"train": [], "test": []}
    for problem in _read(lines, path):
        by_split[split_of(problem.question)].append(problem)
    if min(map(len, by_split.values())) < 2:
        raise UserError(f"env.path={path} has too few problems with whole-number answers; add some")
    return Filed(by_split)


def _read(lines: Sequence[str], path: str) -> Iterator[Problem]:
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = cast(Mapping[str, JsonValue], json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}:{at} is not JSON ({error.msg}); mend or drop the line"
            ) from error
        problem = _problem(row)
        if problem is not None and NUMBER.search(problem.question):
            yield problem


def _problem(row: Mapping[str, JsonValue]) -> Problem | None:
    """A row as a problem; None when its answer is no whole number."""
    question = next((str(row[k]) for k in ("question", "problem", "input") if row.get(k)), "")
    told = next((str(row[k]) for k in ("answer", "solution", "output") if row.get(k)), "")
    answer = as_integer(last_hashes(told) or last_boxed(told) or told)
    if not question.strip() or answer is None or "[asy]" in question:  # numbers there draw figures
        return None
    return Problem(question.strip(), answer, latex=last_hashes(told) is None)


__all__ = [
    "BARE",
    "NUMBER",
    "WHOLE",
    "Filed",
    "Generated",
    "Problem",
    "Problems",
    "filed",
    "generated",
]
