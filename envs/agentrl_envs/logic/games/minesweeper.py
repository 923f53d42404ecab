"""Minesweeper: which of the covered cells hold mines; the numbers leave one answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, number, table
from agentrl_envs.logic.games.search import Grid, is_unique

COVERED = -1
_CELL = re.compile(r"r([0-9]{1,2})c([0-9]{1,2})")


@final
class Minesweeper(Game):
    """Deduce all mines from the numbers around them."""

    name = "minesweeper"
    rules = (
        "A number counts the mines among its up to eight neighbours; cells with a number hold no "
        "mine, cells with _ are covered. Answer with the cells of all mines, in any order, as in: "
        "r1c2, r3c1 (row 1, column 2 and row 3, column 1)."
    )
    knobs = {"size": (3, 4, 4, 5, 6), "mines": (2, 3, 4, 5, 8), "covered": (3, 6, 8, 10, 14)}  # noqa: RUF012
    bounds = {"size": (2, 8), "mines": (1, 20), "covered": (1, 24)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """All safe cells are opened first, then some are covered while one answer is left."""
        size = knobs["size"]
        cells = [(r, c) for r in range(size) for c in range(size)]
        n_mines = min(knobs["mines"], size * size - 1)
        while True:
            mines = set(rng.sample(cells, n_mines))
            grid = [[_around(mines, r, c) for c in range(size)] for r in range(size)]
            for r, c in mines:
                grid[r][c] = COVERED
            if is_unique(layouts(grid, n_mines)):
                break
        covered = n_mines
        for r, c in rng.sample(cells, len(cells)):
            if (r, c) in mines or covered >= knobs["covered"]:
                continue
            kept, grid[r][c] = grid[r][c], COVERED
            if is_unique(layouts(grid, n_mines)):
                covered += 1
            else:
                grid[r][c] = kept
        drawn = "\n".join(" ".join("_" if v < 0 else str(v) for v in row) for row in grid)
        answer = ", ".join(f"r{r + 1}c{c + 1}" for r, c in sorted(mines))
        return Puzzle(f"{drawn}\nMines: {n_mines}.", answer, {"grid": grid, "mines": n_mines})

    def right(self, data: Data, answer: str) -> bool:
        """So many different covered cells, and every number fits."""
        found = [(int(r) - 1, int(c) - 1) for r, c in _CELL.findall(answer)]
        grid, mines = table(data, "grid"), set(found)
        if _CELL.sub("", answer).strip(" ,;.\n") or len(mines) != len(found):
            return False
        inside = all(0 <= r < len(grid) and 0 <= c < len(grid) for r, c in mines)
        if not inside or len(mines) != number(data, "mines"):
            return False
        return all(
            ((r, c) not in mines and v == _around(mines, r, c)) if v >= 0 else True
            for r, row in enumerate(grid)
            for c, v in enumerate(row)
        )

    def guess(self, data: Data, rng: Random) -> str:
        """So many covered cells at random."""
        covered = _covered(table(data, "grid"))
        return ", ".join(f"r{r + 1}c{c + 1}" for r, c in rng.sample(covered, number(data, "mines")))


def _covered(grid: Grid) -> list[tuple[int, int]]:
    return [(r, c) for r, row in enumerate(grid) for c, v in enumerate(row) if v < 0]


def _near(n: int, r: int, c: int) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i in range(max(0, r - 1), min(n, r + 2))
        for j in range(max(0, c - 1), min(n, c + 2))
        if (i, j) != (r, c)
    ]


def _around(mines: set[tuple[int, int]], r: int, c: int) -> int:
    return sum((i, j) in mines for i in (r - 1, r, r + 1) for j in (c - 1, c, c + 1)) - (
        (r, c) in mines
    )


def layouts(grid: Grid, n_mines: int) -> Iterator[frozenset[tuple[int, int]]]:
    """Every placing of the mines on covered cells that fits all numbers."""
    covered, n = _covered(grid), len(grid)
    free = [[0] * n for _ in range(n)]
    for r, c in covered:
        for i, j in _near(n, r, c):
            free[i][j] += 1
    need = [list(row) for row in grid]
    yield from _place(covered, 0, n_mines, need, free, [])


def _place(
    covered: Sequence[tuple[int, int]],
    at: int,
    left: int,
    need: Grid,
    free: Grid,
    mines: list[tuple[int, int]],
) -> Iterator[frozenset[tuple[int, int]]]:
    """Decide the covered cells in order; `need` is what numbers still lack, `free` undecided cells."""
    if left < 0 or left > len(covered) - at:
        return
    if at == len(covered):
        yield frozenset(mines)
        return
    n, (r, c) = len(need), covered[at]
    numbers = [(i, j) for i, j in _near(n, r, c) if (i, j) not in covered]
    for mine in (0, 1):
        for i, j in numbers:
            need[i][j] -= mine
            free[i][j] -= 1
        if all(0 <= need[i][j] <= free[i][j] for i, j in numbers):
            more = [*mines, (r, c)] if mine else mines
            yield from _place(covered, at + 1, left - mine, need, free, more)
        for i, j in numbers:
            need[i][j] += mine
            free[i][j] += 1
