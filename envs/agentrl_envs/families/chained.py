"""Families of several steps: sorting a list, and two calls of which the second uses the first.

One longer cell could merge the two calls: the expert's two are a habit that tool-cost rewards can
train away, while `branch` keeps something to read between them.
"""

from __future__ import annotations

from random import Random
from typing import final

from agentrl_envs.families.base import Draw, Family, Operands, Style


@final
class Sort(Family):
    """`sort 52 17 93 40?`: 4 to 6 numbers; the interpreter's list must be rewritten."""

    name = "sort"
    need = "code"

    def draw(self, draw: Draw, level: int) -> Operands:
        """`level + 3` different two-digit numbers, never already sorted."""
        chosen: list[str] = []
        while len(chosen) < level + 3:
            number = draw.digits(2)
            if number not in chosen:
                chosen.append(number)
        if chosen == sorted(chosen):
            chosen.reverse()
        return tuple(chosen)

    def count(self, level: int) -> int:
        """Ordered choices without repetition; the few sorted ones are counted too."""
        distinct = 1
        for taken in range(level + 3):
            distinct *= 90 - taken
        return distinct

    def question(self, operands: Operands, style: Style) -> str:
        """The numbers, separated by blanks, in the order drawn."""
        numbers = " ".join(operands)
        if style == "terse":
            return f"sort {numbers}?"
        return f"Sort these numbers from smallest to largest, separated by spaces: {numbers}."

    def answer(self, operands: Operands) -> str:
        """The numbers in rising order, separated by blanks."""
        return " ".join(sorted(operands, key=int))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """`sorted` of the list, which echoes brackets and commas to be removed."""
        return (f"sorted([{','.join(operands)}])",)

    def guess(self, operands: Operands, rng: Random) -> str:
        """The same numbers in any order."""
        return " ".join(rng.sample(operands, len(operands)))

    def matches(self, gold: str, prediction: str) -> bool:
        """The same numbers in the same order; commas and brackets do not matter."""
        return prediction.replace(",", " ").strip(" []\n").split() == gold.split()


@final
class Chain(Family):
    """`k=384*29;k%97?`: a product kept in a variable, then its remainder."""

    name = "chain"
    need = "two_calls"
    _digits = ((2, 2, 2), (3, 2, 2), (3, 3, 3))

    def draw(self, draw: Draw, level: int) -> Operands:
        """Two factors and a modulus that is neither of them."""
        a, b, m = self._digits[level - 1]
        while True:
            factors = draw.digits(a), draw.digits(b)
            modulus = draw.integer(3 * 10 ** (m - 1), 10**m - 1)
            if modulus not in factors:  # the remainder would be 0
                return *factors, modulus

    def count(self, level: int) -> int:
        """Choices of both factors and of a modulus whose first digit is 3 or more."""
        a, b, m = self._digits[level - 1]
        return 9 * 10 ** (a - 1) * 9 * 10 ** (b - 1) * 7 * 10 ** (m - 1)

    def question(self, operands: Operands, style: Style) -> str:
        """Both steps, the product named `k`."""
        a, b, m = operands
        if style == "terse":
            return f"k={a}*{b};k%{m}?"
        return f"Let k be the product of {a} and {b}. What is the remainder of k divided by {m}?"

    def answer(self, operands: Operands) -> str:
        """The remainder of the product."""
        a, b, m = map(int, operands)
        return str(a * b % m)

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """One call keeps the product in `k`, the next takes its remainder."""
        a, b, m = operands
        return f"k={a}*{b}", f"k%{m}"

    def guess(self, operands: Operands, rng: Random) -> str:
        """A number below the modulus."""
        return str(rng.randrange(int(operands[2])))


@final
class Branch(Family):
    """`k=384*29;odd:k+58,even:k-73?`: the first result decides what the second call computes."""

    name = "branch"
    need = "two_calls"
    _digits = ((2, 2, 2), (3, 2, 2), (3, 3, 2))

    def draw(self, draw: Draw, level: int) -> Operands:
        """Two factors and the numbers to add or take away; over half the products are odd."""
        a, b, c = self._digits[level - 1]
        factors = draw.digits(a), draw.digits(b)
        if draw.rng.random() < 0.5:
            # Odd products would otherwise be one in four.
            while int(factors[0]) * int(factors[1]) % 2 == 0:
                factors = draw.digits(a), draw.digits(b)
        return *factors, draw.digits(c), draw.digits(c)

    def count(self, level: int) -> int:
        """Choices of both factors and of both numbers."""
        a, b, c = self._digits[level - 1]
        return 9 * 10 ** (a - 1) * 9 * 10 ** (b - 1) * (9 * 10 ** (c - 1)) ** 2

    def question(self, operands: Operands, style: Style) -> str:
        """The product named `k`, and what to do when it is odd and when it is even."""
        a, b, c, d = operands
        if style == "terse":
            return f"k={a}*{b};odd:k+{c},even:k-{d}?"
        return (
            f"Let k be the product of {a} and {b}. "
            f"If k is odd, what is k plus {c}; if k is even, what is k minus {d}?"
        )

    def answer(self, operands: Operands) -> str:
        """`k + c` for an odd product, `k - d` for an even one."""
        a, b, c, d = map(int, operands)
        k = a * b
        return str(k + c if k % 2 else k - d)

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """The product first; the second call is the branch that it decides."""
        a, b, c, d = operands
        odd = int(a) * int(b) % 2
        return f"k={a}*{b};k", f"k+{c}" if odd else f"k-{d}"
