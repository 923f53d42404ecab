"""A web of lies: each says whether the one before tells the truth; does the last one?"""

from __future__ import annotations

from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, number, numbers

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea")


@final
class WebOfLies(Game):
    """Follow a chain of claims about who lies."""

    name = "web_of_lies"
    rules = "Everyone either always tells the truth or always lies. Answer yes or no."
    knobs = {"people": (3, 4, 6, 8, 11)}  # noqa: RUF012
    bounds = {"people": (2, 12)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """A first fact and a claim about the predecessor by everyone else, in mixed order."""
        n = knobs["people"]
        names = rng.sample(NAMES, n)
        first = rng.randint(0, 1)
        claims = [rng.randint(0, 1) for _ in range(n - 1)]
        verb = ("lies", "tells the truth")
        told = [
            f"{b} says {a} {verb[claim]}."
            for a, b, claim in zip(names, names[1:], claims, strict=False)
        ]
        told.append(f"{names[0]} {verb[first]}.")
        rng.shuffle(told)
        data = {"first": first, "claims": claims}
        body = f"{' '.join(told)} Does {names[-1]} tell the truth?"
        return Puzzle(body, "yes" if _last(first, claims) else "no", data)

    def right(self, data: Data, answer: str) -> bool:
        """Follows the chain."""
        wanted = "yes" if _last(number(data, "first"), numbers(data, "claims")) else "no"
        return answer.strip().lower().removesuffix(".") == wanted

    def guess(self, data: Data, rng: Random) -> str:
        """A coin."""
        return rng.choice(("yes", "no"))


def _last(first: int, claims: list[int]) -> bool:
    """Whoever claims what is so of the one before tells the truth."""
    truthful = bool(first)
    for claim in claims:
        truthful = bool(claim) == truthful
    return truthful
