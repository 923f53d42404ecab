"""Operators defined anew: evaluate an expression by definitions given with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeAlias, cast, final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, read_number

SIGNS = ("#", "@", "&", "%")
Definition: TypeAlias = Sequence[int]
"""[p, q, r, s]: `x SIGN y = p*x + q*y + r*x*y + s`."""

Tree: TypeAlias = "int | Sequence[str | Tree]"
"""A number, or [sign, left, right]."""


@final
class Operators(Game):
    """Apply new operators as they are defined."""

    name = "operators"
    rules = "Evaluate the expression with the operators defined. Answer with the number alone."
    knobs = {"operators": (1, 1, 2, 3, 4), "uses": (1, 2, 2, 3, 4)}  # noqa: RUF012
    bounds = {"operators": (1, 4), "uses": (1, 8)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Random definitions and a fully bracketed expression over small numbers."""
        signs = rng.sample(SIGNS, knobs["operators"])
        defined = {sign: _definition(rng) for sign in signs}
        while True:
            tree = _expression(rng, signs, knobs["uses"])
            value = evaluate(tree, defined)
            if abs(value) < 10_000:
                break
        written = _written(tree)
        told = [f"x {sign} y = {formula(d)}" for sign, d in defined.items()]
        body = "\n".join([*told, f"What is {written.removeprefix('(').removesuffix(')')}?"])
        return Puzzle(body, str(value), {"defined": defined, "tree": tree})

    def right(self, data: Data, answer: str) -> bool:
        """The exact value, worked out again from the definitions."""
        defined = cast(Mapping[str, Definition], data["defined"])
        return read_number(answer) == evaluate(cast(Tree, data["tree"]), defined)

    def guess(self, data: Data, rng: Random) -> str:
        """A number of about the right size."""
        return str(rng.randint(-5, 100))


def apply(definition: Definition, x: int, y: int) -> int:
    """The operator's value."""
    p, q, r, s = definition
    return p * x + q * y + r * x * y + s


def formula(definition: Definition) -> str:
    """The right side of a definition, such as `2*x - y + x*y + 1`."""
    p, q, r, s = definition
    parts = ((p, "x"), (q, "y"), (r, "x*y"), (s, ""))
    written = ""
    for factor, name in parts:
        if not factor:
            continue
        size = (
            str(abs(factor)) if not name else name if abs(factor) == 1 else f"{abs(factor)}*{name}"
        )
        joint = " + " if factor > 0 else " - "
        written += joint + size if written else ("-" if factor < 0 else "") + size
    return written


def _definition(rng: Random) -> list[int]:
    """Both x and y matter."""
    return [
        rng.choice((-2, -1, 1, 2, 3)),
        rng.choice((-2, -1, 1, 2, 3)),
        rng.choice((0, 0, 1)),
        rng.randint(-3, 3),
    ]


def evaluate(tree: Tree, defined: Mapping[str, Definition]) -> int:
    """The value of an expression."""
    if isinstance(tree, int):
        return tree
    sign, left, right = tree
    return apply(
        defined[str(sign)], *(evaluate(cast(Tree, side), defined) for side in (left, right))
    )


def _expression(rng: Random, signs: Sequence[str], uses: int) -> Tree:
    """A random expression with so many operators."""
    if uses == 0:
        return rng.randint(1, 9)
    left = rng.randint(0, uses - 1)
    sides = [_expression(rng, signs, left), _expression(rng, signs, uses - 1 - left)]
    return [rng.choice(signs), *sides]


def _written(tree: Tree) -> str:
    """Every operation in brackets."""
    if isinstance(tree, int):
        return str(tree)
    sign, left, right = tree
    return f"({_written(cast(Tree, left))} {sign} {_written(cast(Tree, right))})"
