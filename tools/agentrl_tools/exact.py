"""Exact arithmetic for tools: text in, a number out, written so that nothing is lost unsaid."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

from agentrl.errors import ToolError
from agentrl.verify.arithmetic import evaluate
from agentrl.verify.tokens import Token, join_thousands, tidy
from agentrl.verify.values import Unreadable

MAX_CHARS = 2000
"""Longest expression that is read."""
MAX_DECIMALS = 30
"""A terminating decimal up to this long is written whole."""
DIGITS = 12
"""Significant digits of what is not written whole."""
HELP = "Write numbers, + - * / ^ ( ), sqrt(x), pi, e, sin, cos, tan, ln or exp."

Number = Fraction | float


def calculate(expression: str) -> Number:
    """The value of an expression: exact while it is rational, a float beyond that.

    `^` and `**` are powers and `2(3)` is a product; nothing is executed and every size is bounded.
    Raises ToolError, written for the model, for anything else: names, comparisons, `1/2x`, huge
    powers, division by zero, results that are not real.
    """
    if len(expression) > MAX_CHARS:
        raise ToolError(f"The expression is longer than {MAX_CHARS} characters; split it.")
    tokens = join_thousands(tidy(expression), Token("sym", ","))
    if not tokens:
        raise ToolError(f"There is nothing to calculate. {HELP}")
    try:
        value, names = evaluate(tokens)
    except Unreadable as error:
        raise ToolError(_refused(expression, error)) from None
    if names:
        raise ToolError(f"{', '.join(sorted(names))} has no value here. {HELP}")
    if isinstance(value, Fraction):
        return value
    point = value[0]
    if abs(point.imag) > 1e-12 * max(1.0, abs(point)):
        raise ToolError("The result is not a real number.")
    return point.real


def _refused(expression: str, error: Unreadable) -> str:
    if isinstance(error.__cause__, ZeroDivisionError):
        return "Division by zero."
    reason = str(error)
    if "large" in reason or isinstance(error.__cause__, OverflowError):
        return "The numbers become too large (more than about 1,200 digits)."
    shown = expression if len(expression) <= 60 else expression[:60] + "..."
    return f"{shown!r} cannot be calculated ({reason or 'not arithmetic'}). {HELP}"


def written(value: Number) -> str:
    """A number as text: whole if it is an integer or a short decimal, else as fraction and about.

    `written(Fraction(33, 10)) == "3.3"`, `written(Fraction(1, 3)) == "1/3 (about 0.333333333333)"`.
    """
    if not isinstance(value, Fraction):
        return f"about {value:.{DIGITS}g}"
    if value.denominator == 1:
        return str(value.numerator)
    whole = _terminating(value)
    if whole is not None:
        return whole
    with localcontext() as context:
        context.prec = DIGITS
        about = Decimal(value.numerator) / Decimal(value.denominator)
    return f"{value.numerator}/{value.denominator} (about {about})"


def _terminating(value: Fraction) -> str | None:
    """The decimal that equals `value`, if one of at most `MAX_DECIMALS` decimals does."""
    for decimals in range(1, MAX_DECIMALS + 1):
        scaled = value * 10**decimals
        if scaled.denominator == 1:
            sign, digits = ("-" if scaled < 0 else ""), str(abs(scaled.numerator))
            digits = digits.zfill(decimals + 1)
            return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"
    return None
