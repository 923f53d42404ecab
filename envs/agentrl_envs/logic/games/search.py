"""Counting solutions: depth-first filling of cells, cut as soon as a rule is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import TypeAlias

Grid: TypeAlias = list[list[int]]
"""Rows of cells; 0 is an empty cell."""

Allowed: TypeAlias = Callable[[Grid, int, int], bool]
"""Whether the value just put at (row, column) breaks no rule with the cells filled so far."""


def fillings(
    grid: Grid, n_values: int, allowed: Allowed, rng: Random | None = None
) -> Iterator[Grid]:
    """Every way to fill the empty cells with 1..n_values; in a random order with `rng`."""
    grid = [list(row) for row in grid]
    empty = [(r, c) for r, row in enumerate(grid) for c, value in enumerate(row) if not value]
    return _fill(grid, empty, 0, n_values, allowed, rng)


def _fill(
    grid: Grid,
    empty: Sequence[tuple[int, int]],
    at: int,
    n_values: int,
    allowed: Allowed,
    rng: Random | None,
) -> Iterator[Grid]:
    if at == len(empty):
        yield [list(row) for row in grid]
        return
    r, c = empty[at]
    values = list(range(1, n_values + 1))
    for value in rng.sample(values, n_values) if rng is not None else values:
        grid[r][c] = value
        if allowed(grid, r, c):
            yield from _fill(grid, empty, at + 1, n_values, allowed, rng)
    grid[r][c] = 0


def is_unique(solutions: Iterator[object]) -> bool:
    """Whether there is exactly one; looks for two at most."""
    return len(list(islice(solutions, 2))) == 1


def latin(grid: Grid, r: int, c: int) -> bool:
    """The value at (r, c) stands nowhere else in its row and column."""
    value = grid[r][c]
    return grid[r].count(value) == 1 and sum(row[c] == value for row in grid) == 1


def is_latin(rows: Sequence[Sequence[int]], n: int) -> bool:
    """Whether `rows` is an n x n square with 1..n once in every row and column."""
    full = list(range(1, n + 1))
    return (
        len(rows) == n
        and all(sorted(row) == full for row in rows)
        and all(sorted(column) == full for column in zip(*rows, strict=True))
    )


__all__ = ["Allowed", "Grid", "fillings", "is_latin", "is_unique", "latin"]
