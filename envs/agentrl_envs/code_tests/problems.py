"""Generated programming problems: a statement, a solution as source, and a reference to test with.

Expected values come from the reference, which is written apart from the solution's source. A
problem is varied by numbers that belong to one split, so no problem is in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from agentrl.types import JsonValue
from agentrl_envs.families.base import Draw

Arguments: TypeAlias = list[JsonValue]
Parameters: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One family of problems."""

    name: str
    level: int
    signature: str
    """Names of the arguments of `solve`."""
    statement: str
    """With `{0}`, `{1}` for the parameters."""
    source: str
    """A right `solve`, with `$0`, `$1` for the parameters."""
    ranges: tuple[tuple[int, int], ...]
    """Bounds of each parameter."""
    arguments: Callable[[Random], Arguments]
    reference: Callable[[Parameters, Arguments], JsonValue]

    def drawn(self, draw: Draw) -> Parameters:
        """Parameters that belong to the split."""
        return tuple(int(draw.integer(low, high)) for low, high in self.ranges)

    def text(self, parameters: Parameters) -> str:
        """The statement for these parameters."""
        return self.statement.format(*parameters)

    def solution(self, parameters: Parameters) -> str:
        """Source that defines `solve`."""
        source = f"def solve({self.signature}):\n{self.source}"
        for i, value in enumerate(parameters):
            source = source.replace(f"${i}", str(value))
        return source


def _ints(rng: Random, low: int = -99, high: int = 99) -> list[JsonValue]:
    return [rng.randint(low, high) for _ in range(rng.randint(0, 12))]


def _word(rng: Random, letters: str = "abcxyz ") -> str:
    return "".join(rng.choices(letters, k=rng.randint(0, 14)))


def _numbers(arguments: Arguments) -> list[int]:
    first = arguments[0]
    assert isinstance(first, Sequence)
    return [int(str(x)) for x in first]


def _divisible(p: Parameters, a: Arguments) -> JsonValue:
    return p[1] * sum(x for x in _numbers(a) if x % p[0] == 0)


def _between(p: Parameters, a: Arguments) -> JsonValue:
    return len([x for x in _numbers(a) if p[0] - 60 <= x <= p[0]])


def _blocks(p: Parameters, a: Arguments) -> JsonValue:
    xs = _numbers(a)
    return [x for i in range(0, len(xs), p[0] % 9 + 2) for x in reversed(xs[i : i + p[0] % 9 + 2])]


def _shifted(p: Parameters, a: Arguments) -> JsonValue:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    moved = alphabet[p[0] % 26 :] + alphabet[: p[0] % 26]
    return str(a[0]).translate(str.maketrans(alphabet, moved))


def _recurrence(p: Parameters, a: Arguments) -> JsonValue:
    values = [1, 2]
    while len(values) <= int(str(a[0])):
        values.append((p[0] * values[-1] + p[1] * values[-2]) % 10_007)
    return values[int(str(a[0]))]


def _frequent(p: Parameters, a: Arguments) -> JsonValue:
    counts = Counter(x % p[0] for x in _numbers(a))
    return sorted([k, n] for k, n in counts.items() if n >= 2)


def _window(p: Parameters, a: Arguments) -> JsonValue:
    xs, k = _numbers(a), p[0] % 5 + 2
    sums = [sum(xs[i : i + k]) for i in range(len(xs) - k + 1)]
    return max(sums) if sums else None


def _steps(p: Parameters, a: Arguments) -> JsonValue:
    n, steps = int(str(a[0])), 0
    while n > 1 and steps < p[0]:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def _digits(p: Parameters, a: Arguments) -> JsonValue:
    total, value = 0, int(str(a[0]))
    while value:
        value, digit = divmod(value, 10)
        total += digit**3
    return total % p[0]


def _runs(p: Parameters, a: Arguments) -> JsonValue:
    runs: list[tuple[str, int]] = []
    for letter in str(a[0]):
        if runs and runs[-1][0] == letter:
            runs[-1] = (letter, runs[-1][1] + 1)
        else:
            runs.append((letter, 1))
    return "".join(f"{n + p[0]}{letter}" for letter, n in runs)


PROBLEMS: Mapping[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem(
            "divisible", 1, "xs",
            "Return the sum of the numbers in the list xs that are divisible by {0}, times {1}.",
            "    return $1 * sum(x for x in xs if x % $0 == 0)",
            ((10, 40), (10, 99)), lambda rng: [_ints(rng)], _divisible,
        ),
        Problem(
            "between", 1, "xs",
            "Return how many numbers of the list xs are at most {0} and at least {0} - 60.",
            "    return sum($0 - 60 <= x <= $0 for x in xs)",
            ((10, 99),), lambda rng: [_ints(rng)], _between,
        ),
        Problem(
            "shifted", 1, "text",
            "Return the string text with each letter from a to z moved {0} places forward in the "
            "alphabet, from z on to a again; other characters stay.",
            "    move = lambda c: chr((ord(c) - 97 + $0) % 26 + 97) if 'a' <= c <= 'z' else c\n"
            "    return ''.join(move(c) for c in text)",
            ((10, 99),), lambda rng: [_word(rng)], _shifted,
        ),
        Problem(
            "blocks", 2, "xs",
            "Let k = {0} % 9 + 2. Cut the list xs into blocks of k numbers (the last may be shorter), "
            "reverse each block, and return the blocks joined in their order.",
            "    k, out = $0 % 9 + 2, []\n"
            "    for i in range(0, len(xs), k):\n        out += xs[i:i + k][::-1]\n    return out",
            ((10, 999),), lambda rng: [_ints(rng)], _blocks,
        ),
        Problem(
            "window", 2, "xs",
            "Let k = {0} % 5 + 2. Return the largest sum of k neighbouring numbers of the list xs, or "
            "None when xs has fewer than k numbers.",
            "    k = $0 % 5 + 2\n    if len(xs) < k:\n        return None\n"
            "    return max(sum(xs[i:i + k]) for i in range(len(xs) - k + 1))",
            ((10, 999),), lambda rng: [_ints(rng)], _window,
        ),
        Problem(
            "digits", 2, "n",
            "Return the sum of the cubes of the decimal digits of n (n >= 0), modulo {0}.",
            "    return sum(int(d) ** 3 for d in str(n)) % $0",
            ((100, 999),), lambda rng: [rng.randint(0, 10**9)], _digits,
        ),
        Problem(
            "runs", 2, "text",
            "Replace every run of one character in the string text by its length plus {0}, followed "
            "by that character; 'aab' with 10 gives '12a11b'. Return the result.",
            "    import itertools\n"
            "    return ''.join(f'{len(list(g)) + $0}{c}' for c, g in itertools.groupby(text))",
            ((10, 99),), lambda rng: [_word(rng, "ab")], _runs,
        ),
        Problem(
            "recurrence", 3, "n",
            "Let f(0) = 1, f(1) = 2 and f(i) = ({0} * f(i-1) + {1} * f(i-2)) % 10007. Return f(n).",
            "    a, b = 1, 2\n    for _ in range(n):\n        a, b = b, ($0 * b + $1 * a) % 10007\n"
            "    return a",
            ((10, 99), (10, 99)), lambda rng: [rng.randint(0, 60)], _recurrence,
        ),
        Problem(
            "frequent", 3, "xs",
            "Take every number of the list xs modulo {0}. Return a list of pairs [remainder, count] "
            "for the remainders that occur at least twice, smallest remainder first.",
            "    from collections import Counter\n    counts = Counter(x % $0 for x in xs)\n"
            "    return sorted([k, n] for k, n in counts.items() if n > 1)",
            ((10, 40),), lambda rng: [_ints(rng, 0, 99)], _frequent,
        ),
        Problem(
            "steps", 3, "n",
            "Start from n >= 1. While it is above 1 and fewer than {0} steps were made, halve it when "
            "it is even, else replace it by 3 * n + 1; each is a step. Return the number of steps.",
            "    steps = 0\n    while n > 1 and steps < $0:\n"
            "        n = 3 * n + 1 if n % 2 else n // 2\n        steps += 1\n    return steps",
            ((10, 99),), lambda rng: [rng.randint(1, 999)], _steps,
        ),
    )
}  # fmt: skip
"""Every family by name."""
