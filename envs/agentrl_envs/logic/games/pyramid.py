"""Number pyramids: each brick is the sum of the two below it; one solution."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import comb
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, read_table, table, write_table

Cell = tuple[int, int]
"""(row from the top, place in the row)."""


@final
class Pyramid(Game):
    """Fill a pyramid of sums."""

    name = "pyramid"
    rules = (
        "Every brick holds the sum of the two bricks right below it. Fill the empty bricks (_) with "
        "whole numbers. Answer with all rows from the top, one per line, separated by blanks."
    )
    knobs = {"base": (3, 3, 4, 5, 6), "extra": (2, 0, 1, 1, 0), "largest": (9, 9, 12, 15, 20)}  # noqa: RUF012
    bounds = {"base": (2, 8), "extra": (0, 30), "largest": (1, 99)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Bricks that determine the base, in number `base`, and `extra` more are shown."""
        base = knobs["base"]
        full = _built([rng.randint(1, knobs["largest"]) for _ in range(base)])
        cells = [(r, c) for r in range(base) for c in range(r + 1)]
        rng.shuffle(cells)
        shown: list[Cell] = []
        for cell in cells:
            if _rank([*shown, cell], base) > len(shown):
                shown.append(cell)
        others = [cell for cell in cells if cell not in shown]
        kept = {*shown, *others[: knobs["extra"]]}
        rows = [
            [v if (r, c) in kept else -1 for c, v in enumerate(row)] for r, row in enumerate(full)
        ]
        return Puzzle(write_table(rows, blank=-1), write_table(full), {"rows": rows})

    def right(self, data: Data, answer: str) -> bool:
        """The shape and the bricks shown are kept, and all sums are right."""
        rows, given = read_table(answer), table(data, "rows")
        if rows is None or [len(row) for row in rows] != [len(row) for row in given]:
            return False
        kept = all(
            g in (-1, v)
            for gs, vs in zip(given, rows, strict=True)
            for g, v in zip(gs, vs, strict=True)
        )
        return kept and rows == _built(rows[-1])

    def guess(self, data: Data, rng: Random) -> str:
        """Random numbers for the empty bricks."""
        return write_table(
            [[rng.randint(1, 20) if v < 0 else v for v in row] for row in table(data, "rows")]
        )


def _built(base: Sequence[int]) -> list[list[int]]:
    """All rows from the top."""
    rows = [list(base)]
    while len(rows[0]) > 1:
        below = rows[0]
        rows.insert(0, [a + b for a, b in pairwise(below)])
    return rows


def _rank(cells: Sequence[Cell], base: int) -> int:
    """Independent equations among bricks, each a binomial sum of the base, by elimination."""
    rows = [
        [Fraction(comb(base - 1 - r, i - c)) if i - c >= 0 else Fraction(0) for i in range(base)]
        for r, c in cells
    ]
    rank = 0
    for column in range(base):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column] / rows[rank][column]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank
