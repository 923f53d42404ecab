r"""Values of expressions, read by hand: exact fractions where possible, else numeric fingerprints.

`evaluate` is a recursive-descent reader over canonical tokens. Arithmetic on rational numbers is
exact; anything with roots, pi, functions or variables becomes its values at three fixed points of
the variables, which tells two expressions apart (Schwartz 1980: distinct polynomials agree at a
random point with probability near 0). No text is ever executed, sizes are bounded, and whatever
is ambiguous (`1/2x`, `\sqrt12`, `\log x`) raises `Unreadable` instead of being guessed.
"""

from __future__ import annotations

import cmath
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import TypeAlias

from agentrl.verify.tokens import Token, names

Points: TypeAlias = tuple[complex, complex, complex]
"""An expression's values with all variables positive, of mixed sign, and all negative."""
Value: TypeAlias = Fraction | Points

MAX_DIGITS = 400
"""Longest number literal, and largest decimal exponent, that is read."""
MAX_BITS = 4096
"""Largest exact integer kept; beyond it the expression is left to the symbolic checker."""
MAX_DEPTH = 40

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


def evaluate(tokens: Iterable[Token]) -> tuple[Value, frozenset[str]]:
    """Value of an expression and the names of its variables.

    Raises:
        Unreadable: anything that is not plain, unambiguous, small arithmetic.
    """
    reader = _Reader([token for token in tokens if token.kind != "space"])
    try:
        value = reader.sum(0)
    except (OverflowError, ZeroDivisionError, ValueError) as error:
        raise Unreadable(str(error)) from error
    if reader.at < len(reader.tokens):
        raise Unreadable(reader.peek())
    return value, frozenset(reader.variables)


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


def _map(f: Callable[[complex], complex], value: Value) -> Points:
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


def _add(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a + b)
    return _zip(lambda x, y: x + y, a, b)


def _multiply(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a * b)
    return _zip(lambda x, y: x * y, a, b)


def _divide(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a / b)
    return _zip(lambda x, y: x / y, a, b)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent.numerator) > MAX_BITS:
                raise Unreadable("power too large")
            return base**exponent.numerator
        if exponent == Fraction(1, 2):
            return _root(base, 2)
    return _zip(lambda x, y: x**y, base, exponent)


def _root(value: Value, degree: int) -> Value:
    if isinstance(value, Fraction) and value >= 0:
        top = _exact_root(value.numerator, degree)
        bottom = _exact_root(value.denominator, degree)
        if top is not None and bottom is not None:
            return Fraction(top, bottom)
    if degree == 2:
        return _map(cmath.sqrt, value)
    if degree % 2 and isinstance(value, Fraction) and value < 0:
        return _map(lambda x: -((-x) ** (1 / degree)), value)
    return _map(lambda x: x ** (1 / degree), value)


def _exact_root(n: int, degree: int) -> int | None:
    if n.bit_length() > 900:
        return None
    guess = math.isqrt(n) if degree == 2 else round(n ** (1 / degree))
    return guess if guess**degree == n else None


_FUNCTIONS: Mapping[str, Callable[[complex], complex]] = {
    r"\sin": cmath.sin,
    r"\cos": cmath.cos,
    r"\tan": cmath.tan,
    r"\cot": lambda x: 1 / cmath.tan(x),
    r"\sec": lambda x: 1 / cmath.cos(x),
    r"\csc": lambda x: 1 / cmath.sin(x),
    r"\exp": cmath.exp,
    r"\ln": cmath.log,
}
_PLAIN_WORDS = {
    name: Token("cmd", "\\" + name)
    for name in ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "ln", "pi", "sqrt")
}
_GREEK = names(
    r"""\alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \kappa \lambda \mu \nu
    \xi \rho \sigma \tau \phi \varphi \chi \psi \omega"""
)
_CONSTANTS: Mapping[str, complex] = {r"\pi": math.pi, "e": math.e, "i": 1j}
_CLOSERS = {"(": ")", "{": "}", "[": "]"}


def _sample(name: str) -> Points:
    """Three fixed values of a variable, from its name alone."""
    x = 0.6 + (zlib.crc32(name.encode()) % 9973) / 5501
    y = 0.7 + (zlib.crc32(name[::-1].encode() + b"'") % 7919) / 4507
    sign = 1 if zlib.crc32(name.encode() + b'"') % 2 else -1
    return (complex(x), complex(sign * y), complex(-(x + y) / 2))


class _Reader:
    """One pass over space-free tokens; `at` only moves forward."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = [
            _PLAIN_WORDS.get(token.text, token) if token.kind == "word" else token
            for token in tokens
        ]
        self.at = 0
        self.variables: set[str] = set()

    def peek(self, ahead: int = 0) -> str:
        """Text of a coming token; "" at the end."""
        i = self.at + ahead
        return self.tokens[i].text if i < len(self.tokens) else ""

    def take(self) -> Token:
        if self.at >= len(self.tokens):
            raise Unreadable("ends early")
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, text: str) -> None:
        if self.take().text != text:
            raise Unreadable(f"no {text}")

    def sum(self, depth: int) -> Value:
        """`[+-] product ([+-] product)*`; depth counts open groups."""
        total = self.signed(depth)
        while self.peek() in ("+", "-"):
            negative = self.take().text == "-"
            term = self.product(depth)
            total = _add(total, _multiply(Fraction(-1), term) if negative else term)
        return total

    def signed(self, depth: int) -> Value:
        if self.peek() in ("+", "-"):
            negative = self.take().text == "-"
            value = self.product(depth)
            return _multiply(Fraction(-1), value) if negative else value
        return self.product(depth)

    def product(self, depth: int) -> Value:
        """Factors joined by `*`, `/` or nothing; `1/2x` is ambiguous and refused."""
        value = self.mixed_number(depth)
        divided = False
        while True:
            if self.peek() == "*":
                self.take()
                value, divided = _multiply(value, self.operand(depth)), False
            elif self.peek() == "/":
                self.take()
                value, divided = _divide(value, self.operand(depth)), True
            elif self.starts_factor():
                if divided or self.tokens[self.at].kind == "num":
                    raise Unreadable("ambiguous product")
                value = _multiply(value, self.power(depth))
            else:
                return value

    def operand(self, depth: int) -> Value:
        """What follows `*` or `/`: a power with at most one minus sign."""
        if self.peek() != "-":
            return self.power(depth)
        self.take()
        return _multiply(Fraction(-1), self.power(depth))

    def mixed_number(self, depth: int) -> Value:
        r"""A first factor; `1\frac{4}{5}` is the mixed number 9/5."""
        whole = self.tokens[self.at] if self.at < len(self.tokens) else None
        if whole is None or whole.kind != "num" or self.peek(1) != r"\frac":
            return self.power(depth)
        self.take()
        part = self.power(depth)
        if not isinstance(part, Fraction):
            return _multiply(literal(whole.text), part)
        if not (whole.text.isdigit() and 0 < part < 1):
            raise Unreadable("neither mixed number nor product")
        return literal(whole.text) + part

    def starts_factor(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        if token.kind in ("num", "word"):
            return True
        if token.kind == "cmd":
            known = token.text in _GREEK or token.text in _FUNCTIONS
            return known or token.text in (r"\frac", r"\sqrt", r"\pi")
        return token.text in ("(", "{")

    def power(self, depth: int) -> Value:
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.exponent(depth)
        if self.peek() == "^":
            raise Unreadable("tower without braces")
        return _power(base, exponent)

    def exponent(self, depth: int) -> Value:
        """A group, or one signed atom: `x^10` means the tenth power."""
        if self.peek() == "-":
            self.take()
            return _multiply(Fraction(-1), self.atom(depth))
        return self.atom(depth)

    def atom(self, depth: int) -> Value:
        token = self.take()
        if depth > MAX_DEPTH:
            raise Unreadable("too deep")
        if token.kind == "num":
            return literal(token.text)
        if token.text in ("(", "{", "["):
            value = self.sum(depth + 1)
            self.expect(_CLOSERS[token.text])
            return value
        if token.text == r"\frac":
            top = self.argument(depth)
            return _divide(top, self.argument(depth))
        if token.text == r"\sqrt":
            return self.sqrt(depth)
        if token.text in _FUNCTIONS:
            return self.function(_FUNCTIONS[token.text], depth)
        return self.symbol(token)

    def symbol(self, token: Token) -> Value:
        """A constant, a variable, or two variables written together."""
        name = token.text
        if name in _CONSTANTS and self.peek() != "_":
            x = complex(_CONSTANTS[name])
            return (x, x, x)
        if name in _GREEK or (token.kind == "word" and len(name) == 1):
            return self.variable(name)
        if token.kind == "word" and len(name) == 2:
            if self.peek() in ("^", "_"):
                raise Unreadable("exponent of a word")
            first, second = (self.symbol(Token("word", letter)) for letter in name)
            return _multiply(first, second)
        raise Unreadable(name)

    def variable(self, name: str) -> Value:
        if self.peek() == "_":
            self.take()
            name += "_" + self.subscript()
        self.variables.add(name)
        return _sample(name)

    def subscript(self) -> str:
        token = self.take()
        if token.text == "{":
            token = self.take()
            self.expect("}")
        if token.kind not in ("num", "word"):
            raise Unreadable("subscript")
        return token.text

    def argument(self, depth: int) -> Value:
        r"""A group or, as TeX reads it, one character: `\frac12` is one half."""
        token = self.take()
        if token.text == "{":
            value = self.sum(depth + 1)
            self.expect("}")
            return value
        if token.kind == "num" and token.text.isdigit():
            if len(token.text) > 2:
                raise Unreadable("unbraced digits")
            if len(token.text) == 2:
                self.at -= 1
                self.tokens[self.at] = Token("num", token.text[1])
            return literal(token.text[0])
        if token.text == r"\sqrt":
            return self.sqrt(depth)
        return self.symbol(token)

    def sqrt(self, depth: int) -> Value:
        degree = 2
        if self.peek() == "[":
            self.take()
            order = self.take()
            self.expect("]")
            if order.text not in ("2", "3", "4", "5", "6"):
                raise Unreadable("root order")
            degree = int(order.text)
        token = self.take()
        if token.text in ("{", "("):
            value = self.sum(depth + 1)
            self.expect(_CLOSERS[token.text])
        elif token.kind == "num" and len(token.text) == 1:
            value = literal(token.text)
        else:
            value = self.symbol(token)
        return _root(value, degree)

    def function(self, f: Callable[[complex], complex], depth: int) -> Value:
        r"""A function of one group or one symbol; `\sin 2x` and `\sin^2 x` are refused."""
        grouped = self.peek() in ("(", "{")
        value = _map(f, self.atom(depth + 1))
        if self.peek() == "^" or (not grouped and self.starts_factor()):
            raise Unreadable("function argument")
        return value
