"""Sudoku of 4x4 (boxes 2x2) or 6x6 (boxes 2x3) with one solution."""

from __future__ import annotations

from random import Random
from typing import final

from agentrl_envs.logic.games.base import (
    Data,
    Game,
    Knobs,
    Puzzle,
    number,
    write_table,
)
from agentrl_envs.logic.games.search import Grid, fillings, is_unique, latin
from agentrl_envs.logic.games.squares import completed, filled_blindly


@final
class Sudoku(Game):
    """Fill a square so that rows, columns and boxes hold every number once."""

    name = "sudoku"
    rules = (
        "Fill the empty cells (_) so that every row, every column and every box holds each number "
        "once. Boxes are 2 rows high and as wide as half of the square. Answer with all rows, one "
        "per line, numbers separated by blanks."
    )
    knobs = {"size": (4, 4, 4, 6, 6), "holes": (4, 7, 10, 14, 20)}  # noqa: RUF012
    bounds = {"size": (4, 6), "holes": (1, 24)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """A full square with holes; a hole is dug only where the solution stays the only one."""
        size = 4 if knobs["size"] < 6 else 6
        full = next(fillings([[0] * size for _ in range(size)], size, _allowed, rng))
        grid: Grid = [list(row) for row in full]
        cells = [(r, c) for r in range(size) for c in range(size)]
        dug = 0
        for r, c in rng.sample(cells, len(cells)):
            if dug == knobs["holes"]:
                break
            grid[r][c] = 0
            if is_unique(fillings(grid, size, _allowed)):
                dug += 1
            else:
                grid[r][c] = full[r][c]
        return Puzzle(write_table(grid, blank=0), write_table(full), {"size": size, "grid": grid})

    def right(self, data: Data, answer: str) -> bool:
        """The givens stand, and rows, columns and boxes are complete."""
        rows, size = completed(data, answer), number(data, "size")
        return rows is not None and all(
            _in_box(rows, r, c) for r in range(size) for c in range(size)
        )

    def guess(self, data: Data, rng: Random) -> str:
        """The givens, and random numbers in the holes."""
        return filled_blindly(data, rng)


def _in_box(grid: Grid, r: int, c: int) -> bool:
    wide = len(grid) // 2
    top, left = r - r % 2, c - c % wide
    box = [grid[i][j] for i in (top, top + 1) for j in range(left, left + wide)]
    return box.count(grid[r][c]) == 1


def _allowed(grid: Grid, r: int, c: int) -> bool:
    return latin(grid, r, c) and _in_box(grid, r, c)
