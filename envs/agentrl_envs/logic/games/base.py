"""What a logic game is: a seeded generator with knobs, an exact checker and a blind guess.

After SynLogic (arXiv:2505.19641): every item is made under difficulty knobs, its answer can be
verified by rule, and the same seed gives the same item. A checker reads only the puzzle's data and
the answer, never the stored solution, so it accepts every right answer and nothing else.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, TypeAlias, cast

from agentrl.types import JsonValue

Knobs: TypeAlias = Mapping[str, int]
"""A game's difficulty settings by name."""

Data: TypeAlias = Mapping[str, JsonValue]
"""What a checker reads; plain JSON, so that tasks can be saved."""

LEVELS = (1, 2, 3, 4, 5)
"""Difficulties of every game."""

_NUMBER = re.compile(r"-?[0-9]{1,15}")
_CELLS = re.compile(r"[\s,;|]+")


@dataclass(frozen=True, slots=True)
class Puzzle:
    """One item."""

    body: str
    """What varies of the question; the game's `rules` stand before it."""
    answer: str
    """A right answer, in the form the rules ask for."""
    data: Data


class Game(ABC):
    """One kind of puzzle. Concrete games are final and hold no state."""

    name: ClassVar[str]
    rules: ClassVar[str]
    """What is asked and in which form, for every item alike."""
    knobs: ClassVar[Mapping[str, tuple[int, int, int, int, int]]]
    """Values of each knob at the levels 1 to 5."""
    bounds: ClassVar[Mapping[str, tuple[int, int]]]
    """Smallest and largest value that each knob may be set to."""

    @abstractmethod
    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """An item under the knobs; it has one solution, or the checker accepts each one."""

    @abstractmethod
    def right(self, data: Data, answer: str) -> bool:
        """Whether an answer solves the item; never raises on what a model may write."""

    @abstractmethod
    def guess(self, data: Data, rng: Random) -> str:
        """An answer of the right form, its content drawn blindly."""

    def at(self, level: int, changes: Knobs | None = None) -> Knobs:
        """The knobs of a level, with `changes` put over them."""
        return {name: values[level - 1] for name, values in self.knobs.items()} | dict(
            changes or {}
        )


def number(data: Data, key: str) -> int:
    """An integer of a puzzle's data."""
    return cast(int, data[key])


def text(data: Data, key: str) -> str:
    """A string of a puzzle's data."""
    return cast(str, data[key])


def texts(data: Data, key: str) -> list[str]:
    """A list of strings of a puzzle's data."""
    return list(cast(Sequence[str], data[key]))


def numbers(data: Data, key: str) -> list[int]:
    """A list of integers of a puzzle's data."""
    return list(cast(Sequence[int], data[key]))


def table(data: Data, key: str) -> list[list[int]]:
    """Rows of integers of a puzzle's data."""
    return [list(row) for row in cast(Sequence[Sequence[int]], data[key])]


def read_number(answer: str) -> int | None:
    """The integer that an answer consists of, or None."""
    answer = answer.strip()
    return int(answer) if _NUMBER.fullmatch(answer) else None


def read_numbers(line: str) -> list[int] | None:
    """Integers separated by blanks or commas; None when anything else stands there."""
    found = [read_number(word) for word in _CELLS.split(line.strip()) if word]
    return None if None in found else [value for value in found if value is not None]


def read_table(answer: str) -> list[list[int]] | None:
    """One row of integers per line (or per `/`); None when anything else stands there."""
    lines = [line for line in re.split(r"[\n/]", answer) if line.strip()]
    rows = [read_numbers(line) for line in lines]
    return None if None in rows else [row for row in rows if row is not None]


def read_words(answer: str) -> list[str]:
    """Words separated by blanks or commas."""
    return [word for word in _CELLS.split(answer.strip()) if word]


def write_table(rows: Sequence[Sequence[int]], *, blank: int | None = None) -> str:
    """One row per line; cells that equal `blank` are written as `_`."""
    return "\n".join(" ".join("_" if v == blank else str(v) for v in row) for row in rows)


__all__ = [
    "LEVELS",
    "Data",
    "Game",
    "Knobs",
    "Puzzle",
    "number",
    "numbers",
    "read_number",
    "read_numbers",
    "read_table",
    "read_words",
    "table",
    "text",
    "texts",
    "write_table",
]
