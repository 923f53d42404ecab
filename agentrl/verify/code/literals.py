"""Python values as JSON and back, for talk between processes that must not trust each other.

Plain JSON stands for None, bool, int, finite float, str, list and dict with string keys; everything
else is an object with one key that starts with `$`: `{"$tuple": [1, 2]}`, `{"$set": [...]}`,
`{"$dict": [[key, value], ...]}`, `{"$float": "nan"}`, `{"$bytes": "<base64>"}`, ... Decoding makes
values of built-in and standard-library types only, so what comes out has no methods that a stranger
wrote. The file imports the standard library alone: it is also loaded inside sandbox sessions.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any, cast

MAX_DEPTH = 64
"""Containers inside containers; what is deeper, or contains itself, is refused."""
MAX_ITEMS = 100_000
"""Items taken from an iterator, which might never end."""
_PLAIN_INT_BITS = 63


def encode(value: object, depth: int = MAX_DEPTH) -> Any:
    """The JSON form of `value`.

    A subclass of a built-in type is encoded as that type. Raises TypeError for a type that cannot
    be told (functions, objects of classes of one's own), ValueError when it is too deep or endless.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _PLAIN_INT_BITS else {"$int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, str):
        return str(value)
    if depth <= 0:
        raise ValueError(f"a value nested deeper than {MAX_DEPTH} levels, or containing itself")
    if isinstance(value, list):
        return _items(cast(list[object], value), depth)
    if isinstance(value, dict):
        return _mapping(cast(dict[object, object], value), depth)
    return _tagged(value, depth)


def _items(values: Iterable[object], depth: int) -> list[Any]:
    return [encode(item, depth - 1) for item in values]


def _pairs(value: Iterable[tuple[object, object]], depth: int) -> list[Any]:
    return [[encode(k, depth - 1), encode(v, depth - 1)] for k, v in value]


def _mapping(value: dict[object, object], depth: int) -> dict[str, Any]:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {str(key): encode(item, depth - 1) for key, item in value.items()}
    return {"$dict": _pairs(value.items(), depth)}


def _drained(value: Iterable[object], depth: int) -> list[Any]:
    taken = list(islice(value, MAX_ITEMS + 1))
    if len(taken) > MAX_ITEMS:
        raise ValueError(f"an iterator of more than {MAX_ITEMS} items")
    return _items(taken, depth)


def _tagged(value: object, depth: int) -> Any:
    for kind, tag, told in _TOLD:
        if isinstance(value, kind):
            return {tag: told(value, depth)}
    if type(value).__module__ == "numpy":
        return _numpy(value, depth)
    raise TypeError(f"a value of type {type(value).__name__} cannot leave its process")


def _numpy(value: Any, depth: int) -> Any:
    """A scalar as the Python number it stands for; an array of numbers with its type."""
    if getattr(value, "dtype", None) is None or value.dtype.kind not in "biufc":
        raise TypeError(f"a numpy value of type {type(value).__name__} cannot leave its process")
    if type(value).__name__ != "ndarray":
        return encode(value.item(), depth)
    return {"$ndarray": [str(value.dtype), encode(value.tolist(), depth)]}


_TOLD: tuple[tuple[type | tuple[type, ...], str, Callable[[Any, int], Any]], ...] = (
    (tuple, "$tuple", _items),
    (set, "$set", _items),
    (frozenset, "$frozenset", _items),
    (bytes, "$bytes", lambda v, _: base64.b64encode(bytes(v)).decode()),
    (bytearray, "$bytearray", lambda v, _: base64.b64encode(bytes(v)).decode()),
    (complex, "$complex", lambda v, _: [encode(float(v.real)), encode(float(v.imag))]),
    (Fraction, "$fraction", lambda v, _: [encode(v.numerator), encode(v.denominator)]),
    (Decimal, "$decimal", lambda v, _: str(v)),
    (range, "$range", lambda v, d: _items((v.start, v.stop, v.step), d)),
    (deque, "$deque", _items),
    (KeysView, "$keys", _drained),
    (ItemsView, "$items", lambda v, d: _pairs(v, d)),
    (ValuesView, "$values", _drained),
    (type(...), "$ellipsis", lambda v, _: None),
    (Iterator, "$iter", _drained),
)
"""Type, tag, what to write; a generator is run to its end."""


def decode(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value that `encode` wrote. Raises ValueError on anything else, however it is broken."""
    try:
        return _decoded(value, depth)
    except (TypeError, ArithmeticError, LookupError, RecursionError, AttributeError) as error:
        raise ValueError(f"not an encoded value: {type(error).__name__}: {error}") from error


def _decoded(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth < 0:
        raise ValueError("too deep")
    if isinstance(value, list):
        return [_decoded(item, depth - 1) for item in cast(list[Any], value)]
    found = cast(dict[str, Any], value)
    if len(found) == 1:
        tag, body = next(iter(found.items()))
        if tag.startswith("$"):
            return _UNTOLD[tag](body, depth - 1)
    return {str(key): _decoded(item, depth - 1) for key, item in found.items()}


def _list(body: Any, depth: int) -> list[Any]:
    if not isinstance(body, list):
        raise ValueError("a list is missing")
    return [_decoded(item, depth) for item in cast(list[Any], body)]


def _dict(body: Any, depth: int) -> dict[Any, Any]:
    return dict(cast(Any, _list(pair, depth)) for pair in body)


def _array(body: Any, depth: int) -> Any:
    """A numpy array; a list where there is no numpy."""
    kind, values = body[0], _decoded(body[1], depth)
    try:
        import numpy as np
    except ImportError:
        return values
    dtype = np.dtype(str(kind))
    if dtype.kind not in "biufc":
        raise ValueError("not a type of number")
    return np.array(values, dtype=dtype)


_UNTOLD: dict[str, Callable[[Any, int], Any]] = {
    "$int": lambda body, _: int(str(body), 16),
    "$float": lambda body, _: float(str(body)),
    "$tuple": lambda body, depth: tuple(_list(body, depth)),
    "$set": lambda body, depth: set(_list(body, depth)),
    "$frozenset": lambda body, depth: frozenset(_list(body, depth)),
    "$dict": _dict,
    "$bytes": lambda body, _: base64.b64decode(str(body), validate=True),
    "$bytearray": lambda body, _: bytearray(base64.b64decode(str(body), validate=True)),
    "$complex": lambda body, depth: complex(*_list(body, depth)),
    "$fraction": lambda body, depth: Fraction(*_list(body, depth)),
    "$decimal": lambda body, _: Decimal(str(body)),
    "$range": lambda body, depth: range(*_list(body, depth)),
    "$deque": lambda body, depth: deque(_list(body, depth)),
    "$keys": lambda body, depth: dict.fromkeys(_list(body, depth)).keys(),
    "$items": lambda body, depth: _dict(body, depth).items(),
    "$values": lambda body, depth: dict(enumerate(_list(body, depth))).values(),
    "$ellipsis": lambda _, __: ...,
    "$iter": lambda body, depth: iter(_list(body, depth)),
    "$ndarray": _array,
}

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "decode", "encode"]
