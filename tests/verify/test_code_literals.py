"""Values that cross between processes: what comes out is what went in, and nothing else can."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.verify.code.literals import MAX_DEPTH, decode, encode

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3) | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


def through(value: object) -> object:
    """Over the wire and back."""
    return decode(json.loads(json.dumps(encode(value))))


def shape(value: object) -> object:
    """The value with the types of everything in it."""
    if isinstance(value, list | tuple | deque):
        return type(value), [shape(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(shape(k), shape(v)) for k, v in value.items()]
    return type(value), value


@given(VALUES)
def test_values_survive_with_their_types(value: object) -> None:
    assert shape(through(value)) == shape(value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
        ((1, "x"), {"$tuple": [1, "x"]}),
        ({1: "one"}, {"$dict": [[1, "one"]]}),
        ({"$tuple": 1}, {"$dict": [["$tuple", 1]]}),
        (2**70, {"$int": "0x400000000000000000"}),
        (float("-inf"), {"$float": "-inf"}),
        (b"\xff", {"$bytes": "/w=="}),
        (1 + 2j, {"$complex": [1.0, 2.0]}),
        (Fraction(1, 3), {"$fraction": [1, 3]}),
        (Decimal("0.10"), {"$decimal": "0.10"}),
        (range(1, 9, 2), {"$range": [1, 9, 2]}),
        (deque([1]), {"$deque": [1]}),
        (np.int64(7), 7),
        (np.float64(0.5), 0.5),
        (np.array([1, 2], np.int32), {"$ndarray": ["int32", [1, 2]]}),
        (Counter("aa"), {"a": 2}),
        (OrderedDict(b=1), {"b": 1}),
        (namedtuple("P", "x y")(1, 2), {"$tuple": [1, 2]}),
        (IntEnum("E", "A").A, 1),
    ],
)  # fmt: skip
def test_what_is_written(value: object, written: object) -> None:
    assert encode(value) == written


def test_what_equality_does_not_tell() -> None:
    assert math.isnan(through(float("nan")))  # type: ignore[arg-type]
    assert math.copysign(1, through(-0.0)) == -1  # type: ignore[arg-type]
    assert list(through(x * x for x in range(4))) == [0, 1, 4, 9]  # type: ignore[call-overload]
    assert list(through({"b": 1, "a": 2}.keys())) == ["b", "a"]  # type: ignore[call-overload]
    assert through({"b": 1}.items()) == {"b": 1}.items()
    assert through("\ud800\x00") == "\ud800\x00"
    array = through(np.array([[1.5, 2.0]], np.float32))
    assert isinstance(array, np.ndarray)
    assert (array.dtype, array.tolist()) == (np.float32, [[1.5, 2.0]])


class Liar:
    """Equal to everything, as far as it has a say."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class LyingInt(int):
    """An int that claims to equal everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def test_methods_of_strangers_do_not_travel() -> None:
    with pytest.raises(TypeError, match="Liar cannot leave"):
        encode([Liar()])
    assert LyingInt(3) == 4
    assert through(LyingInt(3)) != 4
    assert type(through(LyingInt(3))) is int


def test_endless_and_circular_values_are_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    deep: list[object] = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    for value in (circle, deep, count()):
        with pytest.raises(ValueError):
            encode(value)
    for value in (print, Liar, object(), np.array([object()])):
        with pytest.raises(TypeError, match="cannot leave"):
            encode(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"$nothing": 1}', '{"$tuple": 3}', '{"$set": [[1]]}', '{"$dict": [[1]]}',
        '{"$dict": [[[], 1]]}', '{"$fraction": [1, 0]}', '{"$int": "seven"}', '{"$bytes": "%"}',
        '{"$range": [1, 2, 0]}', '{"$complex": ["a"]}', '{"$ndarray": ["object", [1]]}',
        '{"$ndarray": ["int8", [[1], [2, 3]]]}', '{"$ndarray": "x"}', '{"$decimal": "x"}',
        '{"$dict": 5}', "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
    ],
)  # fmt: skip
def test_broken_writing_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decode(json.loads(text))
