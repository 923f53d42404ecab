"""What puzzles on a square of numbers share: a size, cells that are given, all rows as the answer."""

from __future__ import annotations

from random import Random

from agentrl_envs.logic.games.base import Data, number, read_table, table, write_table
from agentrl_envs.logic.games.search import Grid, is_latin


def completed(data: Data, answer: str) -> Grid | None:
    """The answer's rows when they are a Latin square that keeps the givens, else None."""
    rows = read_table(answer)
    if rows is None or not is_latin(rows, number(data, "size")):
        return None
    given = [(r, c, v) for r, row in enumerate(table(data, "grid")) for c, v in enumerate(row) if v]
    return rows if all(rows[r][c] == v for r, c, v in given) else None


def filled_blindly(data: Data, rng: Random) -> str:
    """The givens, and random numbers in the empty cells."""
    size = number(data, "size")
    return write_table([[v or rng.randint(1, size) for v in row] for row in table(data, "grid")])


__all__ = ["completed", "filled_blindly"]
