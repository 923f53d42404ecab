"""Mazes: a shortest way through; every shortest way counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, texts

MOVES = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}


@final
class Maze(Game):
    """Walk a grid with walls by a shortest path."""

    name = "maze"
    rules = (
        "Go from S to G through free cells (.), never through walls (#), by one of the shortest "
        "ways. Answer with the moves U, D, L, R in order, as in: RRDD."
    )
    knobs = {"size": (3, 4, 5, 7, 9), "walls": (20, 25, 30, 33, 35)}  # noqa: RUF012
    bounds = {"size": (2, 20), "walls": (0, 60)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Random walls (`walls` per cent), drawn again until there is a way of at least `size`."""
        n = knobs["size"]
        while True:
            rows = [
                ["#" if rng.random() < knobs["walls"] / 100 else "." for _ in range(n)]
                for _ in range(n)
            ]
            (a, b), (c, d) = (divmod(i, n) for i in rng.sample(range(n * n), 2))
            rows[a][b], rows[c][d] = "S", "G"
            drawn = ["".join(row) for row in rows]
            way = shortest(drawn)
            if way is not None and len(way) >= min(n, 2 * n - 2):
                return Puzzle("\n".join(drawn), way, {"rows": drawn})

    def right(self, data: Data, answer: str) -> bool:
        """The moves stay on free cells, reach G, and are as few as possible."""
        rows, moves = texts(data, "rows"), "".join(answer.upper().replace(",", " ").split())
        way = shortest(rows)
        if way is None or len(moves) != len(way) or set(moves) - set(MOVES):
            return False
        r, c = _find(rows, "S")
        for move in moves:
            r, c = r + MOVES[move][0], c + MOVES[move][1]
            if not _free(rows, r, c):
                return False
        return rows[r][c] == "G"

    def guess(self, data: Data, rng: Random) -> str:
        """Random moves, as many as the square is wide."""
        return "".join(rng.choices("UDLR", k=len(texts(data, "rows"))))


def shortest(rows: Sequence[str]) -> str | None:
    """The moves of a shortest way from S to G (breadth first), or None."""
    start = _find(rows, "S")
    ways = {start: ""}
    queue = deque([start])
    while queue:
        r, c = queue.popleft()
        if rows[r][c] == "G":
            return ways[r, c]
        for move, (dr, dc) in MOVES.items():
            there = r + dr, c + dc
            if there not in ways and _free(rows, *there):
                ways[there] = ways[r, c] + move
                queue.append(there)
    return None


def _find(rows: Sequence[str], mark: str) -> tuple[int, int]:
    return next((r, row.index(mark)) for r, row in enumerate(rows) if mark in row)


def _free(rows: Sequence[str], r: int, c: int) -> bool:
    return 0 <= r < len(rows) and 0 <= c < len(rows[r]) and rows[r][c] != "#"
