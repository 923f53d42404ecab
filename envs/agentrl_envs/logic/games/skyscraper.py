"""Skyscrapers: a Latin square of heights seen from its four sides, with one solution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import final

from agentrl_envs.logic.games.base import (
    Data,
    Game,
    Knobs,
    Puzzle,
    table,
    write_table,
)
from agentrl_envs.logic.games.search import Grid, fillings, is_unique, latin
from agentrl_envs.logic.games.squares import completed, filled_blindly

SIDES = ("top", "bottom", "left", "right")


@final
class Skyscraper(Game):
    """Fill a Latin square from the numbers of towers seen along each line."""

    name = "skyscraper"
    rules = (
        "Fill the square with heights from 1 to its size so that every row and every column holds "
        "each once. A clue says how many towers are seen from that side along its row or column, "
        "where a tower hides all lower ones behind it; _ is no clue. Answer with all rows, one per "
        "line, numbers separated by blanks."
    )
    knobs = {"size": (3, 3, 4, 4, 4), "clues": (12, 8, 16, 12, 9)}  # noqa: RUF012
    bounds = {"size": (3, 4), "clues": (0, 16)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """A full square and some of its clues; cells are given away until one solution is left."""
        size = knobs["size"]
        full = [list(row) for row in rng.choice(_squares(size))[0]]
        clues = _clues(full)
        places = [(s, i) for s in range(4) for i in range(size)]
        for s, i in rng.sample(places, max(0, 4 * size - knobs["clues"])):
            clues[s][i] = 0
        grid: Grid = [[0] * size for _ in range(size)]
        cells = [(r, c) for r in range(size) for c in range(size)]
        solutions = [square for square, views in _squares(size) if _fits(views, clues)]
        for r, c in rng.sample(cells, len(cells)):
            if is_unique(iter(solutions)):
                break
            grid[r][c] = full[r][c]
            solutions = [g for g in solutions if g[r][c] == full[r][c]]
        told = [
            f"{side}: {write_table([row], blank=0)}" for side, row in zip(SIDES, clues, strict=True)
        ]
        body = "\n".join([*told, write_table(grid, blank=0)])
        return Puzzle(body, write_table(full), {"size": size, "grid": grid, "clues": clues})

    def right(self, data: Data, answer: str) -> bool:
        """A Latin square that keeps the givens and every clue."""
        rows = completed(data, answer)
        return rows is not None and _fits(_clues(rows), table(data, "clues"))

    def guess(self, data: Data, rng: Random) -> str:
        """Random heights."""
        return filled_blindly(data, rng)


@cache
def _squares(size: int) -> list[tuple[Grid, Grid]]:
    """All Latin squares of a size and their clues; there are 12 of size 3 and 576 of size 4."""
    empty = [[0] * size for _ in range(size)]
    return [(square, _clues(square)) for square in fillings(empty, size, latin)]


def seen(heights: Sequence[int]) -> int:
    """Towers seen from the front of a line: those higher than all before them."""
    return sum(h > max(heights[:i], default=0) for i, h in enumerate(heights))


def _clues(full: Grid) -> Grid:
    """Towers seen from the top, the bottom, the left and the right."""
    columns = [list(column) for column in zip(*full, strict=True)]
    return [
        [seen(column) for column in columns],
        [seen(column[::-1]) for column in columns],
        [seen(row) for row in full],
        [seen(row[::-1]) for row in full],
    ]


def _fits(views: Grid, clues: Grid) -> bool:
    """Whether what is seen agrees with every clue that is given."""
    return all(
        not clue or clue == count
        for wanted, counts in zip(clues, views, strict=True)
        for clue, count in zip(wanted, counts, strict=True)
    )
