"""When an answer equals the expected one; runs in the trusted process, never beside the code.

Values: as Python's `==` has it for plain data, so `1 == 1.0 == True`, with these exceptions. An
expected list is matched by a tuple too, since JSON knows no tuples (`{"$tuple": ...}` demands one).
Real numbers may differ by `tolerance`, relatively or absolutely; NaN matches NaN. Arrays compare
as lists.
Printed text: lines without trailing blanks, without blank lines at the end; with a tolerance,
tokens that are numbers compare as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast


def same_value(expected: object, found: object, tolerance: float = 0.0) -> bool:
    """Whether `found` answers a case that expects `expected`; both are decoded plain data."""
    if _is_array(expected) or _is_array(found):
        return same_value(_listed(expected), _listed(found), tolerance)
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return _same_number(expected, found, tolerance)
    if isinstance(expected, list | tuple):
        kinds = (list, tuple) if isinstance(expected, list) else (tuple,)
        return isinstance(found, kinds) and _same_items(
            cast(Sequence[object], expected), cast(Sequence[object], found), tolerance
        )
    if isinstance(expected, dict):
        return isinstance(found, dict) and _same_dicts(
            cast(dict[object, object], expected), cast(dict[object, object], found), tolerance
        )
    try:
        return bool(expected == found)
    except (ArithmeticError, TypeError, ValueError):  # a signalling NaN refuses to be compared
        return False


def _same_number(expected: float, found: float, tolerance: float) -> bool:
    if expected == found:
        return True
    try:
        if math.isnan(expected) and math.isnan(found):
            return True
        return tolerance > 0 and math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an int beyond all floats
        return False


def _same_items(expected: Sequence[object], found: Sequence[object], tolerance: float) -> bool:
    return len(expected) == len(found) and all(
        same_value(a, b, tolerance) for a, b in zip(expected, found, strict=True)
    )


def _same_dicts(
    expected: Mapping[object, object], found: Mapping[object, object], tolerance: float
) -> bool:
    return expected.keys() == found.keys() and all(
        same_value(item, found[key], tolerance) for key, item in expected.items()
    )


def _is_array(value: object) -> bool:
    return type(value).__module__ == "numpy"


def _listed(value: Any) -> object:
    return value.tolist() if _is_array(value) else value


def same_output(expected: str, found: str, tolerance: float = 0.0) -> bool:
    """Whether a program printed what it should."""
    mine, theirs = _lines(expected), _lines(found)
    if mine == theirs:
        return True
    return (
        tolerance > 0
        and len(mine) == len(theirs)
        and all(
            _same_line(a.split(), b.split(), tolerance) for a, b in zip(mine, theirs, strict=True)
        )
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_line(mine: Sequence[str], theirs: Sequence[str], tolerance: float) -> bool:
    return len(mine) == len(theirs) and all(
        a == b or _same_written(a, b, tolerance) for a, b in zip(mine, theirs, strict=True)
    )


def _same_written(mine: str, theirs: str, tolerance: float) -> bool:
    try:
        return _same_number(float(mine), float(theirs), tolerance)
    except ValueError:
        return False


__all__ = ["same_output", "same_value"]
