"""Campsite (tents and trees): one tent beside each tree, none touching; one solution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeAlias, final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, numbers, table
from agentrl_envs.logic.games.search import is_unique

Cell: TypeAlias = tuple[int, int]
_CELL = re.compile(r"r([0-9]{1,2})c([0-9]{1,2})")


@final
class Campsite(Game):
    """Pitch a tent beside every tree."""

    name = "campsite"
    rules = (
        "Pitch as many tents as there are trees (T), on free cells (.). Each tree has a tent of its "
        "own right above, below, left or right of it. No two tents touch, not even at a corner. "
        "The numbers count the tents of each row and column. Answer with the cells of all tents, in "
        "any order, as in: r1c2, r3c1 (row 1, column 2 and row 3, column 1)."
    )
    knobs = {"size": (4, 4, 5, 6, 7), "trees": (2, 3, 4, 5, 7)}  # noqa: RUF012
    bounds = {"size": (3, 8), "trees": (1, 10)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Tents and their trees at random, drawn again until the counts leave one solution.

        A camp too crowded for a size loses a tree after a hundred attempts.
        """
        n, n_trees, tries = knobs["size"], knobs["trees"], 0
        while True:
            tries += 1
            pitched = _pitched(rng, n, max(1, n_trees - tries // 100))
            if pitched is None:
                continue
            tents, trees = pitched
            rows = [sum(r == i for r, _ in tents) for i in range(n)]
            columns = [sum(c == i for _, c in tents) for i in range(n)]
            if is_unique(camps(trees, rows, columns)):
                break
        drawn = ["".join("T" if (r, c) in trees else "." for c in range(n)) for r in range(n)]
        told = [f"{line} {count}" for line, count in zip(drawn, rows, strict=True)]
        body = "\n".join([*told, f"Columns: {' '.join(map(str, columns))}"])
        answer = ", ".join(f"r{r + 1}c{c + 1}" for r, c in sorted(tents))
        data = {"trees": [list(t) for t in sorted(trees)], "rows": rows, "columns": columns}
        return Puzzle(body, answer, data)

    def right(self, data: Data, answer: str) -> bool:
        """Free cells, none touching, the counts right, and a tree for each tent."""
        found = [(int(r) - 1, int(c) - 1) for r, c in _CELL.findall(answer)]
        if _CELL.sub("", answer).strip(" ,;.\n") or len(set(found)) != len(found):
            return False
        trees = [(r, c) for r, c in table(data, "trees")]
        rows, columns = numbers(data, "rows"), numbers(data, "columns")
        return _fits(found, trees, rows, columns)

    def guess(self, data: Data, rng: Random) -> str:
        """A random neighbour of every tree."""
        beside = [
            rng.choice(_beside((r, c), len(numbers(data, "rows")))) for r, c in table(data, "trees")
        ]
        return ", ".join(f"r{r + 1}c{c + 1}" for r, c in beside)


def _beside(cell: Cell, n: int) -> list[Cell]:
    r, c = cell
    around = ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1))
    return [(i, j) for i, j in around if 0 <= i < n and 0 <= j < n]


def _touch(a: Cell, b: Cell) -> bool:
    return abs(a[0] - b[0]) <= 1 and abs(a[1] - b[1]) <= 1


def _paired(tents: Sequence[Cell], trees: Sequence[Cell], n: int) -> bool:
    """Whether every tree can have a tent of its own: the first takes each of its own in turn."""
    if not trees:
        return not tents
    near = _beside(trees[0], n)
    return any(
        _paired([t for t in tents if t != tent], trees[1:], n) for tent in tents if tent in near
    )


def _fits(
    tents: Sequence[Cell], trees: Sequence[Cell], rows: Sequence[int], columns: Sequence[int]
) -> bool:
    n = len(rows)
    inside = all(0 <= r < n and 0 <= c < n and (r, c) not in trees for r, c in tents)
    if not inside or len(tents) != len(trees):
        return False
    counted = all(
        sum(r == i for r, _ in tents) == rows[i] and sum(c == i for _, c in tents) == columns[i]
        for i in range(n)
    )
    apart = not any(_touch(a, b) for i, a in enumerate(tents) for b in tents[:i])
    return counted and apart and _paired(tents, trees, n)


def _pitched(rng: Random, n: int, n_trees: int) -> tuple[list[Cell], list[Cell]] | None:
    """Tents that do not touch and a tree for each; None when the square got full."""
    tents: list[Cell] = []
    trees: list[Cell] = []
    for r, c in rng.sample([(r, c) for r in range(n) for c in range(n)], n * n):
        free = [t for t in _beside((r, c), n) if t not in trees and t not in tents]
        if (r, c) in trees or not free or any(_touch((r, c), tent) for tent in tents):
            continue
        tents.append((r, c))
        trees.append(rng.choice(free))
        if len(tents) == n_trees:
            return tents, trees
    return None


def camps(
    trees: Sequence[Cell], rows: Sequence[int], columns: Sequence[int]
) -> Iterator[tuple[Cell, ...]]:
    """Every solution: cells beside trees, taken in reading order while the counts allow."""
    n = len(rows)
    places = sorted({cell for tree in trees for cell in _beside(tree, n)} - set(trees))
    for tents in _taken(places, 0, (), list(rows), list(columns)):
        if _paired(tents, trees, n):
            yield tents


def _taken(
    places: Sequence[Cell], at: int, tents: tuple[Cell, ...], rows: list[int], columns: list[int]
) -> Iterator[tuple[Cell, ...]]:
    """`rows` and `columns` are the tents still wanted."""
    if at == len(places):
        if not any(rows) and not any(columns):
            yield tents
        return
    r, c = places[at]
    if any(rows[:r]):
        return
    yield from _taken(places, at + 1, tents, rows, columns)
    if rows[r] and columns[c] and not any(_touch((r, c), tent) for tent in tents):
        rows[r] -= 1
        columns[c] -= 1
        yield from _taken(places, at + 1, (*tents, (r, c)), rows, columns)
        rows[r] += 1
        columns[c] += 1
