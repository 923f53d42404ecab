"""Which answers may reach a scorer that evaluates them.

A few of the package's scorers hand the answer to `eval` or to sympy's parser, which evaluates as well:
a model that writes `__import__('os')...` would run code in the trainer. Their answers are let through
only when they are literals, or formulas of known functions with small exponents.
"""

from __future__ import annotations

import ast
from typing import Literal

LITERALS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Scorers that `eval` an answer that looks like a list."""

FORMULAS = frozenset(
    {
        "countdown",
        "intermediate_integration",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
    }
)
"""Scorers that hand the answer to sympy."""

FUNCTIONS = frozenset({
    "Abs", "abs", "acos", "asin", "atan", "cos", "cosh", "cot", "csc", "exp", "log", "sec", "sin", "sinh",
    "sqrt", "tan", "tanh",
})  # fmt: skip
"""Functions that a formula may call."""

LONGEST = 2000
"""Characters of an answer that is evaluated."""

HIGHEST = 64
"""Exponent of a power."""

_PLAIN = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.USub, ast.UAdd, ast.BinOp,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.List, ast.Tuple,
)  # fmt: skip
_FORMULA = (*_PLAIN, ast.Call, ast.Pow, ast.BitXor)


def allowed(dataset: str, answer: str) -> bool:
    """Whether the answer may be handed to that data set's scorer."""
    if dataset not in LITERALS | FORMULAS:
        return True
    kind: Literal["literal", "formula"] = "literal" if dataset in LITERALS else "formula"
    return len(answer) <= LONGEST and _harmless(answer, kind)


def _harmless(answer: str, kind: Literal["literal", "formula"]) -> bool:
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # `eval` refuses it too; sympy rewrites its text before it evaluates, so nothing is certain
        return kind == "literal"
    nodes = list(ast.walk(tree))
    known = _PLAIN if kind == "literal" else _FORMULA
    if not all(isinstance(node, known) for node in nodes):
        return False
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    powers = [node for node in nodes if isinstance(node, ast.BinOp) and _raises(node)]
    named = {id(call.func) for call in calls}
    functions = [node for node in nodes if isinstance(node, ast.Name) and id(node) in named]
    variables = [node for node in nodes if isinstance(node, ast.Name) and id(node) not in named]
    return (
        all(
            isinstance(c.func, ast.Name) and c.func.id in FUNCTIONS and not c.keywords
            for c in calls
        )
        and all(f.id in FUNCTIONS for f in functions)
        and all(len(v.id) <= 1 or v.id == "pi" or kind == "literal" for v in variables)
        and all(_small(power.right) for power in powers)
        and not any(_nested(power) for power in powers)
        and all(_short(n.value) for n in nodes if isinstance(n, ast.Constant))
    )


def _raises(node: ast.BinOp) -> bool:
    return isinstance(node.op, (ast.Pow, ast.BitXor))


def _nested(power: ast.BinOp) -> bool:
    """A power of a power of numbers grows past any memory."""
    inner = [n for n in ast.walk(power.left) if isinstance(n, ast.BinOp) and _raises(n)]
    return len(inner) > 1


def _small(exponent: ast.expr) -> bool:
    values = [n.value for n in ast.walk(exponent) if isinstance(n, ast.Constant)]
    numbers = [v for v in values if isinstance(v, (int, float))]
    deeper = any(isinstance(n, ast.BinOp) and _raises(n) for n in ast.walk(exponent))
    multiplied = any(isinstance(n, ast.Mult) for n in ast.walk(exponent))
    bounded = len(numbers) == len(values) and all(abs(v) <= HIGHEST for v in numbers)
    return bounded and not deeper and not (multiplied and len(numbers) > 1)


def _short(value: object) -> bool:
    if isinstance(value, (int, float)):
        return abs(value) < 10**30
    return isinstance(value, str)


__all__ = ["FORMULAS", "LITERALS", "allowed"]
