"""Mutants of a small program, each written out by hand."""

from __future__ import annotations

import pytest

from agentrl.testing.mutants import mutants

SOURCE = '''
def f(a):
    """a + 1"""
    if a < 2 and a:
        a += 3
    return sorted(set(x for x in a if x), key=len)
'''

BODIES = [
    "if a < 2 or a:\n        a += 3\n    return sorted(set((x for x in a if x)), key=len)",
    "if a >= 2 and a:\n        a += 3\n    return sorted(set((x for x in a if x)), key=len)",
    "if a < 3 and a:\n        a += 3\n    return sorted(set((x for x in a if x)), key=len)",
    "if a < 2 and a:\n        a -= 3\n    return sorted(set((x for x in a if x)), key=len)",
    "if a < 2 and a:\n        a += 4\n    return sorted(set((x for x in a if x)), key=len)",
    "if a < 2 and a:\n        a += 3\n    return sorted(set((x for x in a if not x)), key=len)",
    "if a < 2 and a:\n        a += 3\n    return set((x for x in a if x))",
    "if a < 2 and a:\n        a += 3\n    return sorted((x for x in a if x), key=len)",
]


def test_each_mutant_differs_in_one_place() -> None:
    head = 'def f(a):\n    """a + 1"""\n    '
    assert sorted(mutants(SOURCE, "f")) == sorted(head + body for body in BODIES)


@pytest.mark.parametrize(
    ("body", "mutant"),
    [
        ("return True", "return False"),
        ("return 1.5", "return 2.5"),
        ("return 'a'", "return 'ax'"),
        ("return x.strip()", "return x"),
        ("return x // y", "return x * y"),
        ("return x is None", "return x is not None"),
        ("return x in y", "return x not in y"),
    ],
)
def test_what_is_exchanged(body: str, mutant: str) -> None:
    assert list(mutants(f"def f(x, y): {body}", "f")) == [f"def f(x, y):\n    {mutant}"]


def test_only_the_last_function_of_that_name_is_changed() -> None:
    twice = "def f():\n    return 1\n\ndef f():\n    return 2\nf() + 1"
    assert list(mutants(twice, "f")) == [
        "def f():\n    return 1\n\ndef f():\n    return 3\nf() + 1",
    ]
    with pytest.raises(ValueError, match="there is no function 'g'"):
        list(mutants(twice, "g"))
    assert list(mutants("def f(x):\n    return x", "f")) == []
