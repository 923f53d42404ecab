"""When an answer equals the expected one."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from agentrl.verify.code.compare import same_output, same_value

NAN = float("nan")
SAME = [
    (1, 1.0), (1, True), (NAN, NAN), ([1, [2]], (1, (2,))), ((1, 2), (1, 2)), ({1, 2}, {2, 1}),
    ({"a": [1]}, {"a": (1,)}), ("x", "x"), (None, None), ([1, 2], np.array([1, 2])),
    (10**400, 10**400), ({1: NAN}, {1: NAN}), (1 + 2j, 1 + 2j), (b"a", b"a"),
]  # fmt: skip
DIFFERENT = [
    (1, 2), (1, "1"), (None, 0), (None, False), ((1, 2), [1, 2]), ([1], [1, 2]), ("", None),
    ({1, 2}, [1, 2]), ({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 1, "b": 2}), (0.1 + 0.2, 0.3),
    (10**400, 1.5), ([], {}), (Decimal("sNaN"), 1), ("a", b"a"), (1, float("inf")), (NAN, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "found"), SAME)
def test_same(expected: object, found: object) -> None:
    assert same_value(expected, found)


@pytest.mark.parametrize(("expected", "found"), DIFFERENT)
def test_different(expected: object, found: object) -> None:
    assert not same_value(expected, found)


def test_tolerance_is_relative_or_absolute_and_reaches_inside() -> None:
    assert same_value([1000.0, {"x": 1e-9}], [1000.0009, {"x": 0}], tolerance=1e-6)
    assert not same_value([1000.0], [1000.01], tolerance=1e-6)
    assert not same_value(float("inf"), 1e300, tolerance=0.5)
    assert not same_value(10**400, 1.0, tolerance=0.5)
    assert not same_value("1.0", "1.0000001", tolerance=0.5)


def test_printed_text() -> None:
    assert same_output("1 2\n3\n", "1 2  \r\n3\n\n\n")
    assert same_output("", "\n")
    assert not same_output("1 2", "1  2")
    assert not same_output("\n1", "1")
    assert not same_output("0.3", "0.30000000000000004")
    assert same_output("x 0.3\n1", "x 0.30000000000000004\n1.0", tolerance=1e-9)
    assert not same_output("x 0.3", "y 0.3", tolerance=1e-9)
    assert not same_output("1\n2", "1", tolerance=1e-9)
