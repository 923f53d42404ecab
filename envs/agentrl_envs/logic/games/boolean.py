"""Boolean expressions: the value of nested and, or, not."""

from __future__ import annotations

from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, text


@final
class Boolean(Game):
    """Evaluate a formula of True, False, and, or, not."""

    name = "boolean"
    rules = (
        "What is the value of the expression? not binds tighter than and, and tighter than or. "
        "Answer True or False."
    )
    knobs = {"leaves": (2, 4, 6, 9, 14)}  # noqa: RUF012
    bounds = {"leaves": (2, 40)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """A random tree with so many leaves."""
        written = _formula(rng, knobs["leaves"])
        return Puzzle(written, str(evaluate(written)), {"formula": written})

    def right(self, data: Data, answer: str) -> bool:
        """Evaluates the formula again."""
        return answer.strip().lower() == str(evaluate(text(data, "formula"))).lower()

    def guess(self, data: Data, rng: Random) -> str:
        """A coin."""
        return rng.choice(("True", "False"))


def _formula(rng: Random, leaves: int) -> str:
    no = "not " if rng.random() < 0.3 else ""
    if leaves == 1:
        return no + rng.choice(("True", "False"))
    left = rng.randint(1, leaves - 1)
    sign = rng.choice(("and", "or"))
    inner = f"{_formula(rng, left)} {sign} {_formula(rng, leaves - left)}"
    return f"{no}({inner})" if no or rng.random() < 0.7 else inner


def evaluate(formula: str) -> bool:
    """The formula's value by precedence: one pass over its words per operator."""
    words = formula.replace("(", " ( ").replace(")", " ) ").split()
    value, rest = _or(words)
    assert not rest, f"left over: {rest}"
    return value


def _or(words: list[str]) -> tuple[bool, list[str]]:
    value, words = _and(words)
    while words and words[0] == "or":
        other, words = _and(words[1:])
        value = value or other
    return value, words


def _and(words: list[str]) -> tuple[bool, list[str]]:
    value, words = _not(words)
    while words and words[0] == "and":
        other, words = _not(words[1:])
        value = value and other
    return value, words


def _not(words: list[str]) -> tuple[bool, list[str]]:
    if words[0] == "not":
        value, words = _not(words[1:])
        return not value, words
    if words[0] == "(":
        value, words = _or(words[1:])
        return value, words[1:]
    return words[0] == "True", words[1:]
