r"""Reading an expression by hand, token by token, into its value.

`evaluate` is a recursive-descent reader over canonical tokens. No text is ever executed, depth and
sizes are bounded, and whatever is ambiguous (`1/2x`, `\sqrt12`, `\log x`) raises `Unreadable`
instead of being guessed.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

from agentrl.verify.tokens import Token, names
from agentrl.verify.values import (
    Unreadable,
    Value,
    add,
    apply,
    divide,
    literal,
    multiply,
    power,
    root,
    sample,
)

MAX_DEPTH = 40
"""Deepest nesting of groups that is read."""

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
        """The next token, consumed. Raises Unreadable at the end."""
        if self.at >= len(self.tokens):
            raise Unreadable("ends early")
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, text: str) -> None:
        """Consume `text` or raise Unreadable."""
        if self.take().text != text:
            raise Unreadable(f"no {text}")

    def sum(self, depth: int) -> Value:
        """`[+-] product ([+-] product)*`; depth counts open groups."""
        total = self.signed(depth)
        while self.peek() in ("+", "-"):
            negative = self.take().text == "-"
            term = self.product(depth)
            total = add(total, multiply(Fraction(-1), term) if negative else term)
        return total

    def signed(self, depth: int) -> Value:
        """The first product of a sum, with at most one sign before it."""
        if self.peek() in ("+", "-"):
            negative = self.take().text == "-"
            value = self.product(depth)
            return multiply(Fraction(-1), value) if negative else value
        return self.product(depth)

    def product(self, depth: int) -> Value:
        """Factors joined by `*`, `/` or nothing; `1/2x` is ambiguous and refused."""
        value = self.mixed_number(depth)
        divided = False
        while True:
            if self.peek() == "*":
                self.take()
                value, divided = multiply(value, self.operand(depth)), False
            elif self.peek() == "/":
                self.take()
                value, divided = divide(value, self.operand(depth)), True
            elif self.starts_factor():
                if divided or self.tokens[self.at].kind == "num":
                    raise Unreadable("ambiguous product")
                value = multiply(value, self.power(depth))
            else:
                return value

    def operand(self, depth: int) -> Value:
        """What follows `*` or `/`: a power with at most one minus sign."""
        if self.peek() != "-":
            return self.power(depth)
        self.take()
        return multiply(Fraction(-1), self.power(depth))

    def mixed_number(self, depth: int) -> Value:
        r"""A first factor; `1\frac{4}{5}` is the mixed number 9/5."""
        whole = self.tokens[self.at] if self.at < len(self.tokens) else None
        if whole is None or whole.kind != "num" or self.peek(1) != r"\frac":
            return self.power(depth)
        self.take()
        part = self.power(depth)
        if not isinstance(part, Fraction):
            return multiply(literal(whole.text), part)
        if not (whole.text.isdigit() and 0 < part < 1):
            raise Unreadable("neither mixed number nor product")
        return literal(whole.text) + part

    def starts_factor(self) -> bool:
        """Whether the next token can begin a factor that stands there without a `*`."""
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
        """An atom and its exponent; `a^b^c` without braces is refused."""
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.exponent(depth)
        if self.peek() == "^":
            raise Unreadable("tower without braces")
        return power(base, exponent)

    def exponent(self, depth: int) -> Value:
        """A group, or one signed atom: `x^10` means the tenth power."""
        if self.peek() == "-":
            self.take()
            return multiply(Fraction(-1), self.atom(depth))
        return self.atom(depth)

    def atom(self, depth: int) -> Value:
        """A number, group, fraction, root, function or symbol; the innermost rule."""
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
            return divide(top, self.argument(depth))
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
            return multiply(first, second)
        raise Unreadable(name)

    def variable(self, name: str) -> Value:
        """The value at a variable's sample points; a subscript makes it another variable."""
        if self.peek() == "_":
            self.take()
            name += "_" + self.subscript()
        self.variables.add(name)
        return sample(name)

    def subscript(self) -> str:
        """The one number or word under `_`, braces removed."""
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
        r"""A root, of order 2 to 6 where `[n]` says so; `\sqrt12` is refused."""
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
        return root(value, degree)

    def function(self, f: Callable[[complex], complex], depth: int) -> Value:
        r"""A function of one group or one symbol; `\sin 2x` and `\sin^2 x` are refused."""
        grouped = self.peek() in ("(", "{")
        value = apply(f, self.atom(depth + 1))
        if self.peek() == "^" or (not grouped and self.starts_factor()):
            raise Unreadable("function argument")
        return value
