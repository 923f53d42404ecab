"""Importing and exercising what model code uses most, once, before the forks."""

from __future__ import annotations

import contextlib
import importlib

_STANDARD = (
    "collections cmath datetime decimal fractions functools heapq itertools json math operator "
    "random re statistics string time typing dataclasses bisect copy textwrap asyncio"
)


def warm_up() -> None:
    """Load the usual modules; numpy and sympy too where the interpreter has them.

    The calls pull in submodules that are otherwise imported lazily, at ten times the cost of the
    fork that would repeat it in every session.
    """
    for name in _STANDARD.split():
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        _numpy()
    with contextlib.suppress(ImportError):
        _sympy()


def _numpy() -> None:
    import numpy as np

    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
    np.linalg.solve(matrix, np.ones(2))
    np.linalg.eigvals(matrix)
    np.random.default_rng(0).normal()
    np.random.rand()
    np.polyfit([0, 1, 2], [0, 1, 4], 1)
    repr(matrix)


def _sympy() -> None:
    import sympy

    x = sympy.Symbol("x")
    sympy.solve(x**2 - 5 * x + 6, x)
    sympy.factor(x**4 - 1)
    sympy.integrate(sympy.sin(x) * x, x)
    sympy.latex(sympy.simplify((x**2 - 1) / (x - 1)))
    sympy.factorint(360)
    repr(sympy.Rational(1, 3))
