"""The calculator: exact arithmetic by a reader of its own, never by running text."""

from __future__ import annotations

from agentrl.tool import tool
from agentrl_tools.clip import clip_middle
from agentrl_tools.exact import calculate, written

MAX_CHARS = 400
"""Of one result; a longer integer loses its middle."""


@tool(parallel=True)
async def calculator(expression: str) -> str:
    """Calculates an arithmetic expression exactly, such as (12.5 - 3) * 4^2 / 7.

    Fractions stay exact; roots, pi and functions are rounded to 12 digits.

    Args:
        expression: The expression: numbers, + - * / ^ ( ), sqrt(x), pi, e, sin, cos, tan, ln, exp.
    """
    return clip_middle(written(calculate(expression)), MAX_CHARS).text
