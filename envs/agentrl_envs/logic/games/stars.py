"""Star battle: one star in every row, column and region, none touching; one solution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, read_numbers, table
from agentrl_envs.logic.games.search import Grid, is_unique


@final
class StarBattle(Game):
    """Place stars by rows, columns and regions."""

    name = "star_battle"
    rules = (
        "Place one star in every row, every column and every region (cells with the same letter) so "
        "that no two stars touch, not even at a corner. Answer with the column of the star in each "
        "row from the top, counted from 1, as in: 2 4 1 3."
    )
    knobs = {"size": (4, 5, 5, 6, 6)}  # noqa: RUF012
    bounds = {"size": (4, 7)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Regions grown around stars, until these are the only solution."""
        size = knobs["size"]
        while True:
            stars = _scattered(rng, size)
            regions = _grown(rng, stars)
            if is_unique(placings(regions)):
                break
        drawn = "\n".join("".join(chr(65 + v) for v in row) for row in regions)
        return Puzzle(drawn, " ".join(str(c + 1) for c in stars), {"regions": regions})

    def right(self, data: Data, answer: str) -> bool:
        """One in each row, column and region, none touching."""
        columns, regions = read_numbers(answer), table(data, "regions")
        n = len(regions)
        if columns is None or sorted(columns) != list(range(1, n + 1)):
            return False
        inside = {regions[r][c - 1] for r, c in enumerate(columns)}
        return len(inside) == n and all(abs(a - b) > 1 for a, b in pairwise(columns))

    def guess(self, data: Data, rng: Random) -> str:
        """A random order of the columns."""
        n = len(table(data, "regions"))
        return " ".join(str(c) for c in rng.sample(range(1, n + 1), n))


def placings(regions: Grid) -> Iterator[tuple[int, ...]]:
    """Every solution, as the star's column by row."""
    yield from _rows(regions, ())


def _rows(regions: Grid, stars: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    r, n = len(stars), len(regions)
    if r == n:
        yield stars
        return
    taken = {regions[i][c] for i, c in enumerate(stars)}
    for c in range(n):
        apart = not stars or abs(stars[-1] - c) > 1
        if apart and c not in stars and regions[r][c] not in taken:
            yield from _rows(regions, (*stars, c))


def _scattered(rng: Random, n: int) -> list[int]:
    """A random order of columns in which neighbours differ by more than one."""
    while True:
        stars = rng.sample(range(n), n)
        if all(abs(a - b) > 1 for a, b in pairwise(stars)):
            return stars


def _grown(rng: Random, stars: Sequence[int]) -> Grid:
    """Connected regions that cover the square, one around each star."""
    n = len(stars)
    regions = [[-1] * n for _ in range(n)]
    for r, c in enumerate(stars):
        regions[r][c] = r
    while True:
        edges = [
            (i, j, regions[r][c])
            for r in range(n)
            for c in range(n)
            if regions[r][c] >= 0
            for i, j in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1))
            if 0 <= i < n and 0 <= j < n and regions[i][j] < 0
        ]
        if not edges:
            return regions
        i, j, region = rng.choice(edges)
        regions[i][j] = region
