"""Cryptarithms: letters for digits in a sum, with one solution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from string import ascii_uppercase
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, table, texts
from agentrl_envs.logic.games.search import is_unique

_PAIR = re.compile(r"([A-Z])\s*=\s*([0-9])")


@final
class Cryptarithm(Game):
    """Find the digits that letters stand for."""

    name = "cryptarithm"
    rules = (
        "Every letter stands for a digit, different letters for different digits, and no number "
        "begins with 0. Answer with the digit of every letter, as in: A=1, B=2."
    )
    knobs = {"digits": (1, 2, 2, 3, 4), "hints": (1, 2, 0, 1, 0)}  # noqa: RUF012
    bounds = {"digits": (1, 5), "hints": (0, 10)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """A random sum; letters are told, at least `hints`, until one solution is left."""
        low, high = 10 ** (knobs["digits"] - 1), 10 ** knobs["digits"] - 1
        a, b = rng.randint(low, high), rng.randint(low, high)
        digits = sorted({*str(a), *str(b), *str(a + b)})
        letters = dict(zip(digits, rng.sample(ascii_uppercase, len(digits)), strict=True))
        words = ["".join(letters[d] for d in str(v)) for v in (a, b, a + b)]
        key = {letter: int(digit) for digit, letter in letters.items()}
        order = rng.sample(sorted(key), len(key))
        told = order[: knobs["hints"]]
        while not is_unique(solutions(words, {letter: key[letter] for letter in told})):
            told = order[: len(told) + 1]
        hints = [[ord(letter), key[letter]] for letter in sorted(told)]
        body = f"{words[0]} + {words[1]} = {words[2]}"
        if hints:
            body += f"; {', '.join(f'{chr(c)}={v}' for c, v in hints)}"
        answer = ", ".join(f"{letter}={key[letter]}" for letter in sorted(key))
        return Puzzle(body, answer, {"words": words, "hints": hints})

    def right(self, data: Data, answer: str) -> bool:
        """Each letter once, different digits, no leading zero, the hints kept and a true sum."""
        words, pairs = texts(data, "words"), _PAIR.findall(answer)
        key = {letter: int(digit) for letter, digit in pairs}
        if len(pairs) != len(key) or set(key) != set("".join(words)):
            return False
        if len(set(key.values())) < len(key) or any(not key[word[0]] for word in words):
            return False
        if any(key[chr(c)] != v for c, v in table(data, "hints")):
            return False
        a, b, c = (int("".join(str(key[letter]) for letter in word)) for word in words)
        return a + b == c

    def guess(self, data: Data, rng: Random) -> str:
        """Different random digits, the hints kept or not."""
        letters = sorted(set("".join(texts(data, "words"))))
        digits = rng.sample(range(10), len(letters))
        return ", ".join(f"{a}={d}" for a, d in zip(letters, digits, strict=True))


def solutions(words: Sequence[str], told: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Every key of the sum `words[0] + words[1] = words[2]` that agrees with what is told."""
    yield from _column(words, {word[0] for word in words}, dict(told), 0, 0, 0)


def _column(
    words: Sequence[str], first: set[str], key: dict[str, int], at: int, row: int, total: int
) -> Iterator[dict[str, int]]:
    """Column `at` from the right, top to bottom; `total` is its sum so far with the carry."""
    if at == len(words[2]):
        if total == 0:
            yield dict(key)
        return
    letter = words[row][-1 - at] if at < len(words[row]) else ""
    if row == 2:
        yield from _closed(words, first, key, at, letter, total)
    elif not letter:
        yield from _column(words, first, key, at, row + 1, total)
    elif letter in key:
        yield from _column(words, first, key, at, row + 1, total + key[letter])
    else:
        for digit in _free(key, letter, first):
            yield from _column(words, first, {**key, letter: digit}, at, row + 1, total + digit)


def _closed(
    words: Sequence[str], first: set[str], key: dict[str, int], at: int, letter: str, total: int
) -> Iterator[dict[str, int]]:
    """The bottom of a column: its digit follows from the sum."""
    carry, digit = divmod(total, 10)
    if letter not in key and digit in _free(key, letter, first):
        key = {**key, letter: digit}
    if key.get(letter) == digit:
        yield from _column(words, first, key, at + 1, 0, carry)


def _free(key: Mapping[str, int], letter: str, first: set[str]) -> list[int]:
    return [d for d in range(int(letter in first), 10) if d not in key.values()]
