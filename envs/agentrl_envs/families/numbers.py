"""Families of number theory: greatest common divisors, powers modulo m, digits, hexadecimal."""

from __future__ import annotations

from math import gcd
from random import Random
from typing import final

from agentrl_envs.families.base import Draw, Family, Operands, Style, belongs


@final
class Gcd(Family):
    """`gcd(888,1036)?`; the divisor is at least 11, so that guessing 1 never pays."""

    name = "gcd"
    need = "code"
    _ranges = (((11, 49), (3, 19)), ((11, 99), (11, 60)), ((101, 499), (11, 99)))
    """Per level: range of the divisor, range of the two coprime factors."""

    def draw(self, draw: Draw, level: int) -> Operands:
        """A divisor times two different coprime factors; both products belong to the split."""
        (low, high), (first, last) = self._ranges[level - 1]
        while True:
            divisor = draw.rng.randint(low, high)
            x, y = draw.rng.randint(first, last), draw.rng.randint(first, last)
            pair = str(divisor * x), str(divisor * y)
            if gcd(x, y) == 1 and x != y and all(belongs(n, draw.split) for n in pair):
                return pair

    def count(self, level: int) -> int:
        """Divisors times ordered pairs of different coprime factors."""
        (low, high), (first, last) = self._ranges[level - 1]
        factors = range(first, last + 1)
        coprime = sum(gcd(x, y) == 1 for x in factors for y in factors if x != y)
        return (high - low + 1) * coprime

    def question(self, operands: Operands, style: Style) -> str:
        """`gcd(888,1036)?`, or in words."""
        a, b = operands
        if style == "terse":
            return f"gcd({a},{b})?"
        return f"What is the greatest common divisor of {a} and {b}?"

    def answer(self, operands: Operands) -> str:
        """By Euclid's algorithm."""
        return str(gcd(*map(int, operands)))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """`math.gcd`, its import in the same cell."""
        return (f"from math import*;gcd({','.join(operands)})",)


@final
class PowerMod(Family):
    """`17^45 mod 61?`: base, exponent and modulus of 2 or 3 digits."""

    name = "powmod"
    need = "code"
    _digits = ((2, 2, 2), (3, 2, 2), (3, 3, 3))

    def draw(self, draw: Draw, level: int) -> Operands:
        """Base, exponent and a modulus whose first digit is 3 or more."""
        base, exponent, modulus = self._digits[level - 1]
        return draw.digits(base), draw.digits(exponent), self._modulus(draw, modulus)

    def _modulus(self, draw: Draw, digits: int) -> str:
        # From 3 * 10**(digits-1): a small modulus would make a blind guess too often right.
        return draw.integer(3 * 10 ** (digits - 1), 10**digits - 1)

    def count(self, level: int) -> int:
        """Choices of all three numbers."""
        base, exponent, modulus = self._digits[level - 1]
        return 9 * 10 ** (base - 1) * 9 * 10 ** (exponent - 1) * 7 * 10 ** (modulus - 1)

    def question(self, operands: Operands, style: Style) -> str:
        """`17^45 mod 61?`, or the remainder asked for in words."""
        a, b, m = operands
        if style == "terse":
            return f"{a}^{b} mod {m}?"
        return f"What is the remainder when {a} to the power {b} is divided by {m}?"

    def answer(self, operands: Operands) -> str:
        """By modular exponentiation."""
        a, b, m = map(int, operands)
        return str(pow(a, b, m))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """Python's `pow` with three arguments."""
        return (f"pow({','.join(operands)})",)

    def guess(self, operands: Operands, rng: Random) -> str:
        """A number below the modulus."""
        return str(rng.randrange(int(operands[2])))


@final
class DigitSum(Family):
    """`digit sum 347^29?`: the sum of the decimal digits of a power."""

    name = "digitsum"
    need = "code"
    _ranges = (((11, 99), (10, 30)), ((100, 999), (10, 40)), ((1000, 9999), (20, 99)))
    """Per level: range of the base, range of the exponent."""

    def draw(self, draw: Draw, level: int) -> Operands:
        """Base and exponent within the level's ranges."""
        base, exponent = self._ranges[level - 1]
        return draw.integer(*base), draw.integer(*exponent)

    def count(self, level: int) -> int:
        """Choices of both numbers."""
        (low, high), (first, last) = self._ranges[level - 1]
        return (high - low + 1) * (last - first + 1)

    def question(self, operands: Operands, style: Style) -> str:
        """`digit sum 347^29?`, or in words."""
        a, b = operands
        if style == "terse":
            return f"digit sum {a}^{b}?"
        return f"What is the sum of the decimal digits of {a} to the power {b}?"

    def answer(self, operands: Operands) -> str:
        """The sum over the digits of the whole power."""
        a, b = map(int, operands)
        return str(sum(map(int, str(a**b))))

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """The power written out, its digits summed."""
        return (f"sum(map(int,str({operands[0]}**{operands[1]})))",)


@final
class Hexadecimal(Family):
    """`hex 48213?`: the interpreter's `'0xbc55'` must be read and stripped."""

    name = "hex"
    need = "code"
    _digits = (4, 5, 7)

    def draw(self, draw: Draw, level: int) -> Operands:
        """One number of 4, 5 or 7 digits."""
        return (draw.digits(self._digits[level - 1]),)

    def count(self, level: int) -> int:
        """All numbers of that many digits."""
        return 9 * 10 ** (self._digits[level - 1] - 1)

    def question(self, operands: Operands, style: Style) -> str:
        """`hex 48213?`, or a sentence that asks for no prefix."""
        (n,) = operands
        return f"hex {n}?" if style == "terse" else f"Write {n} in hexadecimal, without a prefix."

    def answer(self, operands: Operands) -> str:
        """Lower-case digits without `0x`."""
        return f"{int(operands[0]):x}"

    def cells(self, operands: Operands) -> tuple[str, ...]:
        """Python's `hex`, which echoes quotes and `0x` to be removed."""
        return (f"hex({operands[0]})",)

    def guess(self, operands: Operands, rng: Random) -> str:
        """Hexadecimal digits, as many as the answer has."""
        n = len(self.answer(operands))
        return rng.choice("123456789abcdef") + "".join(rng.choices("0123456789abcdef", k=n - 1))

    def matches(self, gold: str, prediction: str) -> bool:
        """The same digits; capitals, quotes and a `0x` do not matter."""
        return prediction.strip().strip("'\"").lower().removeprefix("0x") == gold
