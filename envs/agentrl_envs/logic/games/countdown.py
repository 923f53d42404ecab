"""Countdown (the game of 24): reach a target with every number once; all right ways count."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fractions import Fraction
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, number, numbers

LONGEST = 200
"""Characters of an expression that is read at all."""

_SHAPE = re.compile(r"[0-9+*/() -]+")


@final
class Countdown(Game):
    """Write an expression over given numbers that has a given value."""

    name = "countdown"
    rules = (
        "Write an expression with the target as its value. Use every number exactly once, the "
        "signs + - * / and brackets. Answer with the expression alone."
    )
    knobs = {"count": (2, 3, 3, 4, 5), "largest": (9, 9, 20, 13, 20)}  # noqa: RUF012
    bounds = {"count": (2, 6), "largest": (2, 99)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Joins random numbers by random operations until one whole number from 1 to 100 is left."""
        while True:
            values = [rng.randint(1, knobs["largest"]) for _ in range(knobs["count"])]
            written, value = _joined(rng, [(str(v), Fraction(v)) for v in values])
            if value.denominator == 1 and 1 <= value <= 100:
                break
        values.sort()
        body = f"Numbers: {', '.join(map(str, values))}. Target: {value}."
        return Puzzle(body, written[1:-1], {"numbers": values, "target": int(value)})

    def right(self, data: Data, answer: str) -> bool:
        """The numbers of the expression are those given, and its exact value is the target."""
        try:
            if len(answer) > LONGEST or not _SHAPE.fullmatch(answer.strip()):
                return False
            tree = ast.parse(answer.strip(), mode="eval").body
            used = sorted(_leaves(tree))
            return used == sorted(numbers(data, "numbers")) and _value(tree) == number(
                data, "target"
            )
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            return False

    def guess(self, data: Data, rng: Random) -> str:
        """The numbers in a random order with random signs."""
        given = numbers(data, "numbers")
        words = [str(v) for v in rng.sample(given, len(given))]
        return words[0] + "".join(rng.choice("+-*/") + word for word in words[1:])


def _joined(rng: Random, parts: list[tuple[str, Fraction]]) -> tuple[str, Fraction]:
    """Two random parts become one, until one is left."""
    while len(parts) > 1:
        (a, x), (b, y) = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        sign = rng.choice("+-*/" if y else "+-*")
        parts.append((f"({a}{sign}{b})", _apply(sign, x, y)))
    return parts[0]


def _apply(sign: str, x: Fraction, y: Fraction) -> Fraction:
    match sign:
        case "+":
            return x + y
        case "-":
            return x - y
        case "*":
            return x * y
        case _:
            return x / y


_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def _leaves(node: ast.expr) -> Iterator[int]:
    """The whole numbers of an expression. Raises ValueError on anything but numbers and + - * /."""
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            yield value
        case ast.BinOp(left=left, right=right, op=op) if type(op) in _SIGNS:
            yield from _leaves(left)
            yield from _leaves(right)
        case _:
            raise ValueError("not arithmetic over whole numbers")


def _value(node: ast.expr) -> Fraction:
    """The exact value of what `_leaves` has accepted."""
    if isinstance(node, ast.BinOp):
        return _apply(_SIGNS[type(node.op)], _value(node.left), _value(node.right))
    assert isinstance(node, ast.Constant)
    return Fraction(int(str(node.value)))
