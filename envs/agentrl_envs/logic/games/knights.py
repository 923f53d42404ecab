"""Knights and knaves: who always tells the truth and who always lies, with one solution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, table, texts
from agentrl_envs.logic.games.search import is_unique

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal")
IS_KNIGHT, IS_KNAVE, SAME, DIFFERENT, COUNT = range(5)
"""What a statement says: of one other, of two others, or how many knights there are."""


@final
class Knights(Game):
    """Tell knights from knaves by what they say."""

    name = "knights"
    rules = (
        "Knights always tell the truth and knaves always lie. Everyone below is one or the other. "
        "Answer with everyone's kind, as in: Ann knight, Bob knave."
    )
    knobs = {"people": (2, 3, 4, 5, 6)}  # noqa: RUF012
    bounds = {"people": (2, 8)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Statements that their speakers could make, drawn again until one solution is left."""
        n = knobs["people"]
        while True:
            kinds = [rng.random() < 0.5 for _ in range(n)]
            said = [_statement(rng, speaker, kinds) for speaker in range(n)]
            if is_unique(k for k in product((False, True), repeat=n) if consistent(said, k)):
                break
        names = rng.sample(NAMES, n)
        body = "\n".join(_told(statement, names) for statement in said)
        answer = ", ".join(
            f"{name} {'knight' if k else 'knave'}" for name, k in zip(names, kinds, strict=True)
        )
        return Puzzle(body, answer, {"names": names, "said": said})

    def right(self, data: Data, answer: str) -> bool:
        """Everyone has one kind, and all statements fit."""
        names = texts(data, "names")
        found = re.findall(r"([A-Za-z]+)\s*(?::|is|=|-)?\s*(?:a\s+)?(knight|knave)\b", answer)
        kinds = {name: kind == "knight" for name, kind in found}
        if len(found) != len(names) or set(kinds) != set(names):
            return False
        return consistent(table(data, "said"), [kinds[name] for name in names])

    def guess(self, data: Data, rng: Random) -> str:
        """A coin for everyone."""
        return ", ".join(f"{n} {rng.choice(('knight', 'knave'))}" for n in texts(data, "names"))


def holds(statement: Sequence[int], kinds: Sequence[bool]) -> bool:
    """Whether what is said is true; a statement is [speaker, what, a, b]."""
    _, what, a, b = statement
    if what == COUNT:
        return sum(kinds) == a
    if what in (SAME, DIFFERENT):
        return (kinds[a] == kinds[b]) == (what == SAME)
    return kinds[a] == (what == IS_KNIGHT)


def consistent(said: Sequence[Sequence[int]], kinds: Sequence[bool]) -> bool:
    """Whether knights said what is true and knaves what is not."""
    return all(holds(statement, kinds) == kinds[statement[0]] for statement in said)


def _statement(rng: Random, speaker: int, kinds: Sequence[bool]) -> list[int]:
    """What this speaker could say: true of a knight, false of a knave."""
    others = [i for i in range(len(kinds)) if i != speaker]
    while True:
        what = rng.choice((IS_KNIGHT, IS_KNAVE, SAME, DIFFERENT, COUNT))
        if what == COUNT:
            statement = [speaker, what, rng.randint(0, len(kinds)), 0]
        elif what in (SAME, DIFFERENT):
            if len(others) < 2:
                continue
            statement = [speaker, what, *sorted(rng.sample(others, 2))]
        else:
            statement = [speaker, what, rng.choice(others), 0]
        if holds(statement, kinds) == kinds[speaker]:
            return statement


def _told(statement: Sequence[int], names: Sequence[str]) -> str:
    speaker, what, a, b = statement
    if what == COUNT:
        said = f"exactly {a} of us are knights"
    elif what in (SAME, DIFFERENT):
        said = f"{names[a]} and {names[b]} are of {'the same kind' if what == SAME else 'different kinds'}"
    else:
        said = f"{names[a]} is a {'knight' if what == IS_KNIGHT else 'knave'}"
    return f"{names[speaker]} says: {said}."
