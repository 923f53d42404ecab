"""When two queries returned the same: by their rows, never by their text."""

from __future__ import annotations

import math

from agentrl_tools.sql_session import Cell, Rows

TOLERANCE = 1e-6
"""Relative difference up to which reals are equal: sums may be added up in another order."""


def same_results(gold: Rows, found: Rows, *, ordered: bool) -> bool:
    """Whether `found` has the rows of `gold`, each as often; in the same order when `ordered`.

    Columns are compared by position: their names do not count. `1` and `1.0` are equal, text and
    numbers are not, NULL equals NULL.
    """
    if found.more or len(found.columns) != len(gold.columns) or len(found.rows) != len(gold.rows):
        return False
    mine, theirs = list(gold.rows), list(found.rows)
    if not ordered:
        mine.sort(key=_key)
        theirs.sort(key=_key)
    return all(
        all(_same(a, b) for a, b in zip(one, other, strict=True))
        for one, other in zip(mine, theirs, strict=True)
    )


def _same(a: Cell, b: Cell) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or (
            isinstance(a, float) | isinstance(b, float)
            and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-9)
        )
    return type(a) is type(b) and a == b


def _key(row: tuple[Cell, ...]) -> list[tuple[int, float, str]]:
    """A total order in which nearly equal numbers come together."""
    return [_cell_key(cell) for cell in row]


def _cell_key(cell: Cell) -> tuple[int, float, str]:
    if cell is None:
        return (0, 0.0, "")
    if isinstance(cell, int | float):
        return (1, float(f"{float(cell):.5g}"), "")
    return (2, 0.0, cell) if isinstance(cell, str) else (3, 0.0, cell.hex())
