"""Values of expressions: exact fractions where possible, else numeric fingerprints.

Arithmetic on rational numbers is exact and of bounded size. Anything with roots, pi, functions or
variables is known by its values at three fixed points of its variables, which tell two expressions
apart (Schwartz 1980: distinct polynomials agree at a random point with probability near 0).
"""

from __future__ import annotations

import cmath
import math
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

Points: TypeAlias = tuple[complex, complex, complex]
"""An expression's values with all variables positive, of mixed sign, and all negative."""
Value: TypeAlias = Fraction | Points

MAX_DIGITS = 400
"""Longest number literal, and largest decimal exponent, that is read."""
MAX_BITS = 4096
"""Largest exact integer kept; beyond it the expression is left to the symbolic checker."""

EQUAL, DIFFERENT = 1e-9, 1e-6
"""Relative differences below which fingerprints agree and above which they differ."""


class Unreadable(Exception):
    """The tokens are not plain arithmetic, or are ambiguous, or too large."""


def literal(text: str) -> Fraction:
    """The exact value of a number token such as `12`, `.5` or `1e-05`."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(text) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_DIGITS:
        raise Unreadable(text[:20])
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def sample(name: str) -> Points:
    """Three fixed values of a variable, from its name alone."""
    x = 0.6 + (zlib.crc32(name.encode()) % 9973) / 5501
    y = 0.7 + (zlib.crc32(name[::-1].encode() + b"'") % 7919) / 4507
    sign = 1 if zlib.crc32(name.encode() + b'"') % 2 else -1
    return (complex(x), complex(sign * y), complex(-(x + y) / 2))


def agree(left: Value, right: Value) -> bool | None:
    """Equal, different, or (None) too close to tell.

    Fractions compare exactly. Points agree when all three do; they differ when all three do, so a
    choice of branch that matters at negative numbers only stays undecided.
    """
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    try:
        pairs = list(zip(_points(left), _points(right), strict=True))
    except OverflowError:
        return None
    if all(_close(a, b, EQUAL) for a, b in pairs):
        return True
    if any(_close(a, b, DIFFERENT) for a, b in pairs):
        return None
    return False


def _close(a: complex, b: complex, tolerance: float) -> bool:
    if cmath.isinf(a) or cmath.isinf(b):
        return a == b
    size = max(abs(a), abs(b))
    # values that cancel to nothing are noise of the last bit
    return abs(a - b) <= tolerance * size or (min(abs(a), abs(b)) == 0 and size < 1e-12)


def _points(value: Value) -> Points:
    if isinstance(value, Fraction):
        x = complex(float(value))
        return (x, x, x)
    return value


def apply(f: Callable[[complex], complex], value: Value) -> Points:
    """A function at each point; raises Unreadable where it is not finite."""
    a, b, c = _points(value)
    return _finite((f(a), f(b), f(c)))


def _zip(f: Callable[[complex, complex], complex], left: Value, right: Value) -> Points:
    (a, b, c), (x, y, z) = _points(left), _points(right)
    return _finite((f(a, x), f(b, y), f(c, z)))


def _finite(points: Points) -> Points:
    if not all(cmath.isfinite(p) for p in points):
        raise Unreadable("not finite")
    return points


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Unreadable("too large")
    return value


def add(a: Value, b: Value) -> Value:
    """Sum."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a + b)
    return _zip(lambda x, y: x + y, a, b)


def multiply(a: Value, b: Value) -> Value:
    """Product."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a * b)
    return _zip(lambda x, y: x * y, a, b)


def divide(a: Value, b: Value) -> Value:
    """Quotient; raises ZeroDivisionError."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a / b)
    return _zip(lambda x, y: x / y, a, b)


def power(base: Value, exponent: Value) -> Value:
    """Power; exact for small integer exponents, else the principal branch at each point."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent.numerator) > MAX_BITS:
                raise Unreadable("power too large")
            return base**exponent.numerator
        if exponent == Fraction(1, 2):
            return root(base, 2)
    return _zip(lambda x, y: x**y, base, exponent)


def root(value: Value, degree: int) -> Value:
    """Principal root, exact for perfect powers; odd roots of negative numbers are real."""
    if isinstance(value, Fraction) and value >= 0:
        top = _exact_root(value.numerator, degree)
        bottom = _exact_root(value.denominator, degree)
        if top is not None and bottom is not None:
            return Fraction(top, bottom)
    if degree == 2:
        return apply(cmath.sqrt, value)
    if degree % 2 and isinstance(value, Fraction) and value < 0:
        return apply(lambda x: -((-x) ** (1 / degree)), value)
    return apply(lambda x: x ** (1 / degree), value)


def _exact_root(n: int, degree: int) -> int | None:
    if n.bit_length() > 900:
        return None
    guess = math.isqrt(n) if degree == 2 else round(n ** (1 / degree))
    return guess if guess**degree == n else None
