"""Object counting: how many things of a kind are left after some come and go."""

from __future__ import annotations

from random import Random
from typing import final

from agentrl_envs.logic.games.base import (
    Data,
    Game,
    Knobs,
    Puzzle,
    numbers,
    read_number,
    text,
    texts,
)

KINDS = {
    "fruits": ("apple", "pear", "plum", "mango", "lemon", "fig"),
    "animals": ("cat", "dog", "goat", "duck", "horse", "frog"),
    "tools": ("hammer", "saw", "drill", "wrench", "file", "chisel"),
    "instruments": ("flute", "piano", "drum", "violin", "harp", "trumpet"),
}


@final
class Counting(Game):
    """Count the things of one kind in a story."""

    name = "object_counting"
    rules = "Count what is asked for. Answer with the number alone."
    knobs = {"items": (3, 5, 7, 9, 12), "changes": (0, 1, 2, 4, 6)}  # noqa: RUF012
    bounds = {"items": (1, 24), "changes": (0, 20)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Some things, then changes that never take away more than there is."""
        kind_of = {item: kind for kind, items in KINDS.items() for item in items}
        items = rng.sample(sorted(kind_of), knobs["items"])
        have = {item: rng.randint(1, 9) for item in items}
        moves = list(have.items())
        told = [f"I have {', '.join(_named(n, item) for item, n in have.items())}."]
        for _ in range(knobs["changes"]):
            item = rng.choice(items)
            if have[item] > 1 and rng.random() < 0.5:
                n = rng.randint(1, have[item] - 1)
                have[item] -= n
                moves.append((item, -n))
                told.append(f"I give {_named(n, item)} away.")
            else:
                n = rng.randint(1, 9)
                have[item] += n
                moves.append((item, n))
                told.append(f"I get {_named(n, item)} more.")
        asked = kind_of[rng.choice(items)]
        total = sum(n for item, n in have.items() if item in KINDS[asked])
        told.append(f"How many {asked} do I have?")
        return Puzzle(
            " ".join(told),
            str(total),
            {"asked": asked, "items": [i for i, _ in moves], "moves": [n for _, n in moves]},
        )

    def right(self, data: Data, answer: str) -> bool:
        """The exact number: everything of the kind that came, less what went."""
        moves = zip(texts(data, "items"), numbers(data, "moves"), strict=True)
        total = sum(n for item, n in moves if item in KINDS[text(data, "asked")])
        return read_number(answer) == total

    def guess(self, data: Data, rng: Random) -> str:
        """A number from 1 to 40."""
        return str(rng.randint(1, 40))


def _named(n: int, item: str) -> str:
    return f"{n} {item}{'' if n == 1 else 'es' if item.endswith('ch') else 's'}"
