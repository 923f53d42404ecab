"""Families of arithmetic too large for the head: products, expressions, roots."""

from __future__ import annotations

from math import isqrt
from typing import final

from agentrl_envs.families.base import Draw, Family, Operands, Style


@final
class Multiply(Family):
    """`37*84=?`: 2x2, 3x2 and 3x3 digits."""

    name = "mul"
    need = "code"
    _digits = ((2, 2), (3, 2), (3, 3))

    def draw(self, draw: Draw, level: int) -> Operands:
        """Two factors of the level's sizes."""
        return tuple(draw.digits(n) for n in self._digits[level - 1])

    def count(self, level: int) -> int:
        """Pairs of factors; neither has a leading zero."""
        return (90 * 90, 900 * 90, 900 * 900)[level - 1]

    def question(self, operands: Operands, style: Style) -> str:
        """`37*84=?`, or the product asked for in words."""
        a, b = operands
        return f"{a}*{b}=?" if style == "terse" else f"What is the product of {a} and {b}?"

    def answer(self, operands: Operands) -> str:
        """The exact product."""
        a, b = map(int, operands)
        return str(a * b)

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """The product as Python writes it."""
        return ("*".join(operands),)


@final
class Expression(Family):
    """`37*84+19=?`, `(37+48)*19-62=?`, `(437-48)*(195+62)=?`."""

    name = "expr"
    need = "code"

    def draw(self, draw: Draw, level: int) -> Operands:
        """Three numbers at level 1, four above; their sizes tell the levels apart."""
        sizes = ((2, 2, 2), (2, 2, 2, 2), (3, 2, 3, 2))[level - 1]
        return tuple(draw.digits(n) for n in sizes)

    def count(self, level: int) -> int:
        """Choices of all the numbers, independent of each other."""
        return (90**3, 90**4, 900**2 * 90**2)[level - 1]

    def question(self, operands: Operands, style: Style) -> str:
        """The formula, bare or inside a sentence."""
        text = self._text(operands)
        return f"{text}=?" if style == "terse" else f"What is the value of {text}?"

    def answer(self, operands: Operands) -> str:
        """Worked out with Python's integers, by the level's pattern."""
        n = [int(operand) for operand in operands]
        if len(n) == 3:
            return str(n[0] * n[1] + n[2])
        if len(operands[0]) == 2:
            return str((n[0] + n[1]) * n[2] - n[3])
        return str((n[0] - n[1]) * (n[2] + n[3]))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """The formula itself is the code."""
        return (self._text(operands),)

    def _text(self, operands: Operands) -> str:
        if len(operands) == 3:
            return "{}*{}+{}".format(*operands)
        pattern = "({}+{})*{}-{}" if len(operands[0]) == 2 else "({}-{})*({}+{})"
        return pattern.format(*operands)


@final
class SquareRoot(Family):
    """`isqrt(843726)?`: the floor of the root of a number of 6, 7 or 9 digits."""

    name = "isqrt"
    need = "code"
    _digits = (6, 7, 9)

    def draw(self, draw: Draw, level: int) -> Operands:
        """One number of 6, 7 or 9 digits."""
        return (draw.digits(self._digits[level - 1]),)

    def count(self, level: int) -> int:
        """All numbers of that many digits."""
        return 9 * 10 ** (self._digits[level - 1] - 1)

    def question(self, operands: Operands, style: Style) -> str:
        """`isqrt(843726)?`, or in words that say which way to round."""
        (n,) = operands
        if style == "terse":
            return f"isqrt({n})?"
        return f"What is the square root of {n}, rounded down to an integer?"

    def answer(self, operands: Operands) -> str:
        """`math.isqrt`, exact for any size."""
        return str(isqrt(int(operands[0])))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """A power of one half, cut to an integer."""
        # Exact below 2**52, and shorter than an import.
        return (f"int({operands[0]}**.5)",)
