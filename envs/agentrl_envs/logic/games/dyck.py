"""Dyck words: close what is open, in order."""

from __future__ import annotations

from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, text

PAIRS = ("()", "[]", "{}", "<>")
_CLOSERS = {pair[0]: pair[1] for pair in PAIRS}


@final
class Dyck(Game):
    """Complete a sequence of brackets."""

    name = "dyck"
    rules = (
        "Complete the sequence with the fewest brackets so that all are closed in the right order. "
        "Answer with the missing brackets alone."
    )
    knobs = {"length": (4, 8, 14, 22, 32), "kinds": (2, 2, 3, 4, 4)}  # noqa: RUF012
    bounds = {"length": (1, 200), "kinds": (1, 4)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """A random walk that opens more than it closes."""
        kinds = PAIRS[: knobs["kinds"]]
        while True:
            written = ""
            open_: list[str] = []
            for _ in range(knobs["length"]):
                if open_ and rng.random() < 0.42:
                    written += _CLOSERS[open_.pop()]
                else:
                    open_.append(rng.choice(kinds)[0])
                    written += open_[-1]
            if open_:
                return Puzzle(written, missing(written), {"start": written})

    def right(self, data: Data, answer: str) -> bool:
        """Exactly the brackets still open, innermost first; blanks do not count."""
        return "".join(answer.split()) == missing(text(data, "start"))

    def guess(self, data: Data, rng: Random) -> str:
        """As many closing brackets as are missing, of random kinds."""
        start = text(data, "start")
        closers = sorted({_CLOSERS[b] for b in start if b in _CLOSERS})
        return "".join(rng.choices(closers, k=len(missing(start))))


def missing(start: str) -> str:
    """What closes all that is open."""
    open_: list[str] = []
    for bracket in start:
        if bracket in _CLOSERS:
            open_.append(bracket)
        else:
            open_.pop()
    return "".join(_CLOSERS[bracket] for bracket in reversed(open_))
