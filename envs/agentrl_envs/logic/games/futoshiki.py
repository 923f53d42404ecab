"""Futoshiki: a Latin square under inequalities, with one solution."""

from __future__ import annotations

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
from agentrl_envs.logic.games.search import Allowed, Grid, fillings, is_unique, latin
from agentrl_envs.logic.games.squares import completed, filled_blindly

Sign = list[int]
"""[r1, c1, r2, c2]: the first cell's number is the smaller one."""


@final
class Futoshiki(Game):
    """Fill a Latin square that obeys inequalities between neighbours."""

    name = "futoshiki"
    rules = (
        "Fill the empty cells (_) with the numbers from 1 to the square's size so that every row "
        "and every column holds each once and all inequalities hold; r1c2 is the cell in row 1, "
        "column 2. Answer with all rows, one per line, numbers separated by blanks."
    )
    knobs = {"size": (3, 3, 4, 4, 5), "signs": (5, 3, 8, 6, 12)}  # noqa: RUF012
    bounds = {"size": (3, 5), "signs": (0, 40)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Some inequalities of a full square; cells are given away until one solution is left."""
        size = knobs["size"]
        full = next(fillings([[0] * size for _ in range(size)], size, latin, rng))
        pairs = [(r, c, r, c + 1) for r in range(size) for c in range(size - 1)]
        pairs += [(r, c, r + 1, c) for r in range(size - 1) for c in range(size)]
        chosen = rng.sample(pairs, min(knobs["signs"], len(pairs)))
        signs = [_smaller_first(full, *pair) for pair in sorted(chosen)]
        grid: Grid = [[0] * size for _ in range(size)]
        cells = [(r, c) for r in range(size) for c in range(size)]
        for r, c in rng.sample(cells, len(cells)):
            if is_unique(fillings(grid, size, _rule(signs))):
                break
            grid[r][c] = full[r][c]
        told = ", ".join(f"r{a + 1}c{b + 1} < r{c + 1}c{d + 1}" for a, b, c, d in signs)
        body = f"{write_table(grid, blank=0)}\n{told}".strip()
        return Puzzle(body, write_table(full), {"size": size, "grid": grid, "signs": signs})

    def right(self, data: Data, answer: str) -> bool:
        """A Latin square that keeps the givens and every inequality."""
        rows = completed(data, answer)
        return rows is not None and all(
            rows[a][b] < rows[c][d] for a, b, c, d in table(data, "signs")
        )

    def guess(self, data: Data, rng: Random) -> str:
        """Random numbers in the empty cells."""
        return filled_blindly(data, rng)


def _smaller_first(full: Grid, a: int, b: int, c: int, d: int) -> Sign:
    return [a, b, c, d] if full[a][b] < full[c][d] else [c, d, a, b]


def _rule(signs: list[Sign]) -> Allowed:
    def allowed(grid: Grid, r: int, c: int) -> bool:
        return latin(grid, r, c) and all(
            not grid[i][j] or not grid[k][m] or grid[i][j] < grid[k][m] for i, j, k, m in signs
        )

    return allowed
