"""Logical deduction: the order of some people from clues, with one solution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, read_words, table, texts
from agentrl_envs.logic.games.search import is_unique

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal")
BEFORE, NEXT_TO, NOT_NEXT_TO, AT = range(4)
"""What a clue [what, a, b] says; of AT, b is the place from 0."""


@final
class Ordering(Game):
    """Find who stands where in a row."""

    name = "ordering"
    rules = (
        "Some people stand in a row, from first to last. Answer with their names in order, "
        "separated by blanks."
    )
    knobs = {"people": (3, 4, 5, 6, 7)}  # noqa: RUF012
    bounds = {"people": (2, 7)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """True clues are added until one order is left, then those without need are dropped."""
        n = knobs["people"]
        names = sorted(rng.sample(NAMES, n))
        row = rng.sample(range(n), n)
        left = list(permutations(range(n)))
        clues: list[list[int]] = []
        while len(left) > 1:
            clue = _clue(rng, row)
            kept = [order for order in left if holds(clue, order)]
            if len(kept) < len(left):
                clues.append(clue)
                left = kept
        for clue in list(clues):
            fewer = [c for c in clues if c is not clue]
            if is_unique(orders(fewer, n)):
                clues = fewer
        rng.shuffle(clues)
        body = f"{', '.join(names)}. {' '.join(_told(clue, names) for clue in clues)}"
        return Puzzle(body, " ".join(names[i] for i in row), {"names": names, "clues": clues})

    def right(self, data: Data, answer: str) -> bool:
        """Everyone once, and every clue holds."""
        names, words = texts(data, "names"), read_words(answer)
        if sorted(words) != names:
            return False
        order = [names.index(word) for word in words]
        return all(holds(clue, order) for clue in table(data, "clues"))

    def guess(self, data: Data, rng: Random) -> str:
        """A random order."""
        names = texts(data, "names")
        return " ".join(rng.sample(names, len(names)))


def holds(clue: Sequence[int], order: Sequence[int]) -> bool:
    """Whether a clue is true of an order of people."""
    what, a, b = clue
    if what == AT:
        return order[b] == a
    apart = order.index(b) - order.index(a)
    return apart > 0 if what == BEFORE else (abs(apart) == 1) == (what == NEXT_TO)


def orders(clues: Sequence[Sequence[int]], n: int) -> Iterator[tuple[int, ...]]:
    """Every order that fits."""
    return (o for o in permutations(range(n)) if all(holds(clue, o) for clue in clues))


def _clue(rng: Random, row: Sequence[int]) -> list[int]:
    while True:
        what = rng.choice((BEFORE, BEFORE, NEXT_TO, NOT_NEXT_TO, AT))
        a, b = rng.sample(range(len(row)), 2)
        clue = [what, row[b], b] if what == AT else [what, a, b]
        if holds(clue, row):
            return clue


def _told(clue: Sequence[int], names: Sequence[str]) -> str:
    what, a, b = clue
    if what == AT:
        return f"{names[a]} is number {b + 1}."
    told = {BEFORE: "is somewhere before", NEXT_TO: "is next to", NOT_NEXT_TO: "is not next to"}
    return f"{names[a]} {told[what]} {names[b]}."
