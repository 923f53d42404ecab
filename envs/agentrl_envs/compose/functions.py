"""Twenty-five string functions with names that say nothing.

f(g(x)) (arXiv:2509.25123) defines a skill as predicting the output of a string transformation, and
names the functions `func_1`, `func_2`, ... so that nothing can be inferred from a name. Which
transformations the paper uses is not reproduced; these are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

VOWELS = "aeiou"


@dataclass(frozen=True, slots=True)
class Function:
    """One atomic skill."""

    name: str
    source: str
    """A Python expression over `x`, shown where definitions are shown."""
    apply: Callable[[str], str]


def _unique(x: str) -> str:
    return "".join(dict.fromkeys(x))


def _squeezed(x: str) -> str:
    return "".join(c for i, c in enumerate(x) if i == 0 or c != x[i - 1])


def _shifted(x: str, by: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(letters[(letters.index(c) + by) % 26] if c in letters else c for c in x)


def _pairs_swapped(x: str) -> str:
    return "".join(x[i : i + 2][::-1] for i in range(0, len(x), 2))


_A_TO_Z = "'abcdefghijklmnopqrstuvwxyz'"

_DEFINITIONS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("x[::-1]", lambda x: x[::-1]),
    ("''.join(c + c for c in x)", lambda x: "".join(c + c for c in x)),
    ("x[1:] + x[:1]", lambda x: x[1:] + x[:1]),
    ("x[-2:] + x[:-2]", lambda x: x[-2:] + x[:-2]),
    (
        "''.join(c for c in x if c not in 'aeiou')",
        lambda x: "".join(c for c in x if c not in VOWELS),
    ),
    (
        "''.join(c.upper() if c in 'aeiou' else c for c in x)",
        lambda x: "".join(c.upper() if c in VOWELS else c for c in x),
    ),
    ("''.join(sorted(x))", lambda x: "".join(sorted(x))),
    ("''.join(dict.fromkeys(x))", _unique),
    ("''.join(c for i, c in enumerate(x) if i == 0 or c != x[i - 1])", _squeezed),
    ("x + x[::-1]", lambda x: x + x[::-1]),
    ("x + x", lambda x: x + x),
    (
        f"''.join({_A_TO_Z}[({_A_TO_Z}.index(c) + 1) % 26] if c in {_A_TO_Z} else c for c in x)",
        lambda x: _shifted(x, 1),
    ),
    (
        f"''.join({_A_TO_Z}[({_A_TO_Z}.index(c) + 13) % 26] if c in {_A_TO_Z} else c for c in x)",
        lambda x: _shifted(x, 13),
    ),
    ("'-'.join(x)", lambda x: "-".join(x)),
    ("'q' + x", lambda x: "q" + x),
    ("x + 'zz'", lambda x: x + "zz"),
    ("x[::2]", lambda x: x[::2]),
    ("x[1::2] + x[::2]", lambda x: x[1::2] + x[::2]),
    ("''.join(x[i:i + 2][::-1] for i in range(0, len(x), 2))", _pairs_swapped),
    ("x[len(x) // 2:] + x[:len(x) // 2]", lambda x: x[len(x) // 2 :] + x[: len(x) // 2]),
    ("x[1:]", lambda x: x[1:]),
    ("x[:-1]", lambda x: x[:-1]),
    ("x + 3 * x[-1:]", lambda x: x + 3 * x[-1:]),
    ("'(' + x + ')'", lambda x: f"({x})"),
    ("x[-1:] + x[1:-1] + x[:len(x) > 1]", lambda x: x[-1:] + x[1:-1] + x[: len(x) > 1]),
)

FUNCTIONS: Mapping[str, Function] = {
    f"func_{i}": Function(f"func_{i}", source, apply)
    for i, (source, apply) in enumerate(_DEFINITIONS, 1)
}
"""Every function by name."""


def applied(names: tuple[str, ...], x: str) -> list[str]:
    """`x` and what it becomes under each function; the last of `names` is the innermost, run first.

    Raises KeyError on an unknown name.
    """
    values = [x]
    for name in reversed(names):
        values.append(FUNCTIONS[name].apply(values[-1]))
    return values


def nested(names: tuple[str, ...], x: str) -> str:
    """`func_3(func_7(x))`."""
    for name in reversed(names):
        x = f"{name}({x})"
    return x


__all__ = ["FUNCTIONS", "Function", "applied", "nested"]
