"""Families that need no tool: comparing, parity, reversing and small sums."""

from __future__ import annotations

from random import Random
from typing import final

from agentrl_envs.families.base import Draw, Family, Operands, Style


@final
class Add(Family):
    """`38+7=?`: 2+1, 2+2 and 3+3 digits."""

    name = "add"
    need = "head"
    _digits = ((2, 1), (2, 2), (3, 3))

    def draw(self, draw: Draw, level: int) -> Operands:
        return tuple(draw.digits(n) for n in self._digits[level - 1])

    def count(self, level: int) -> int:
        return (90 * 9, 90 * 90, 900 * 900)[level - 1]

    def question(self, operands: Operands, style: Style) -> str:
        a, b = operands
        return f"{a}+{b}=?" if style == "terse" else f"What is the sum of {a} and {b}?"

    def answer(self, operands: Operands) -> str:
        return str(sum(map(int, operands)))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        return ("+".join(operands),)

    def guess(self, operands: Operands, rng: Random) -> str:
        return self.answer(operands)


@final
class Max(Family):
    """`max(381,742)?`: two numbers of 2, 3 or 4 digits."""

    name = "max"
    need = "head"

    def draw(self, draw: Draw, level: int) -> Operands:
        first = second = draw.digits(level + 1)
        while second == first:
            second = draw.digits(level + 1)
        return first, second

    def count(self, level: int) -> int:
        n = 9 * 10**level
        return n * (n - 1)

    def question(self, operands: Operands, style: Style) -> str:
        a, b = operands
        return f"max({a},{b})?" if style == "terse" else f"Which number is larger, {a} or {b}?"

    def answer(self, operands: Operands) -> str:
        return max(operands, key=int)

    def cells(self, operands: Operands) -> tuple[str, ...]:
        return (f"max({','.join(operands)})",)

    def guess(self, operands: Operands, rng: Random) -> str:
        return self.answer(operands)


@final
class Parity(Family):
    """`48213 odd?`: yes or no, for numbers of 4 to 6 digits."""

    name = "parity"
    need = "head"

    def draw(self, draw: Draw, level: int) -> Operands:
        return (draw.digits(level + 3),)

    def count(self, level: int) -> int:
        return 9 * 10 ** (level + 2)

    def question(self, operands: Operands, style: Style) -> str:
        (n,) = operands
        return f"{n} odd?" if style == "terse" else f"Is {n} an odd number? Answer yes or no."

    def answer(self, operands: Operands) -> str:
        return "yes" if int(operands[0]) % 2 else "no"

    def cells(self, operands: Operands) -> tuple[str, ...]:
        return (f"{operands[0]}%2",)

    def guess(self, operands: Operands, rng: Random) -> str:
        return self.answer(operands)

    def matches(self, gold: str, prediction: str) -> bool:
        return prediction.strip().strip(".").lower() == gold


@final
class Reverse(Family):
    """`reverse kqzt?`: words of 3 to 5 letters."""

    name = "reverse"
    need = "head"

    def draw(self, draw: Draw, level: int) -> Operands:
        return (draw.word(level + 2),)

    def count(self, level: int) -> int:
        return 26 ** (level + 2)

    def question(self, operands: Operands, style: Style) -> str:
        (word,) = operands
        return f"reverse {word}?" if style == "terse" else f"Write {word!r} backwards."

    def answer(self, operands: Operands) -> str:
        return operands[0][::-1]

    def cells(self, operands: Operands) -> tuple[str, ...]:
        return (f"'{operands[0]}'[::-1]",)

    def guess(self, operands: Operands, rng: Random) -> str:
        return self.answer(operands)

    def matches(self, gold: str, prediction: str) -> bool:
        return prediction.strip().strip("'\"") == gold
