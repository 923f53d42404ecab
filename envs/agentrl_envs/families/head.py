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
        """Two summands of the level's sizes."""
        return tuple(draw.digits(n) for n in self._digits[level - 1])

    def count(self, level: int) -> int:
        """Pairs of summands; neither has a leading zero."""
        return (90 * 9, 90 * 90, 900 * 900)[level - 1]

    def question(self, operands: Operands, style: Style) -> str:
        """`38+7=?`, or the sum asked for in words."""
        a, b = operands
        return f"{a}+{b}=?" if style == "terse" else f"What is the sum of {a} and {b}?"

    def answer(self, operands: Operands) -> str:
        """The exact sum."""
        return str(sum(map(int, operands)))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """The sum as Python writes it."""
        return ("+".join(operands),)

    def guess(self, operands: Operands, rng: Random) -> str:
        """The right answer: no tool is needed."""
        return self.answer(operands)


@final
class Max(Family):
    """`max(381,742)?`: two numbers of 2, 3 or 4 digits."""

    name = "max"
    need = "head"

    def draw(self, draw: Draw, level: int) -> Operands:
        """Two different numbers of `level + 1` digits."""
        first = second = draw.digits(level + 1)
        while second == first:
            second = draw.digits(level + 1)
        return first, second

    def count(self, level: int) -> int:
        """Ordered pairs of different numbers."""
        n = 9 * 10**level
        return n * (n - 1)

    def question(self, operands: Operands, style: Style) -> str:
        """`max(381,742)?`, or which of the two is larger."""
        a, b = operands
        return f"max({a},{b})?" if style == "terse" else f"Which number is larger, {a} or {b}?"

    def answer(self, operands: Operands) -> str:
        """The larger number."""
        return max(operands, key=int)

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """Python's `max` of both."""
        return (f"max({','.join(operands)})",)

    def guess(self, operands: Operands, rng: Random) -> str:
        """The right answer: no tool is needed."""
        return self.answer(operands)


@final
class Parity(Family):
    """`48213 odd?`: yes or no, for numbers of 4 to 6 digits."""

    name = "parity"
    need = "head"

    def draw(self, draw: Draw, level: int) -> Operands:
        """One number of `level + 3` digits."""
        return (draw.digits(level + 3),)

    def count(self, level: int) -> int:
        """All numbers of that many digits."""
        return 9 * 10 ** (level + 2)

    def question(self, operands: Operands, style: Style) -> str:
        """`48213 odd?`, or a sentence that asks for yes or no."""
        (n,) = operands
        return f"{n} odd?" if style == "terse" else f"Is {n} an odd number? Answer yes or no."

    def answer(self, operands: Operands) -> str:
        """`yes` for an odd number, `no` for an even one."""
        return "yes" if int(operands[0]) % 2 else "no"

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """The remainder by two: 1 must be read as yes, 0 as no."""
        return (f"{operands[0]}%2",)

    def guess(self, operands: Operands, rng: Random) -> str:
        """The right answer: no tool is needed."""
        return self.answer(operands)

    def matches(self, gold: str, prediction: str) -> bool:
        """The same word; capitals and a full stop do not matter."""
        return prediction.strip().strip(".").lower() == gold


@final
class Reverse(Family):
    """`reverse kqzt?`: words of 3 to 5 letters."""

    name = "reverse"
    need = "head"

    def draw(self, draw: Draw, level: int) -> Operands:
        """One word of `level + 2` letters."""
        return (draw.word(level + 2),)

    def count(self, level: int) -> int:
        """All strings of that many lower-case letters."""
        return 26 ** (level + 2)

    def question(self, operands: Operands, style: Style) -> str:
        """`reverse kqzt?`, or a sentence that quotes the word."""
        (word,) = operands
        return f"reverse {word}?" if style == "terse" else f"Write {word!r} backwards."

    def answer(self, operands: Operands) -> str:
        """The letters from last to first."""
        return operands[0][::-1]

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """A slice with step -1, which echoes quotes to be removed."""
        return (f"'{operands[0]}'[::-1]",)

    def guess(self, operands: Operands, rng: Random) -> str:
        """The right answer: no tool is needed."""
        return self.answer(operands)

    def matches(self, gold: str, prediction: str) -> bool:
        """The same letters in the same case; quotes around them do not matter."""
        return prediction.strip().strip("'\"") == gold
