"""The few tensor methods torch leaves untyped, with their types."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor


class Distinct(NamedTuple):
    """The distinct values of an index tensor, numbered in ascending order."""

    n: int
    inverse: Tensor
    """i64, shape of the input: the number of each value."""


def distinct(values: Tensor) -> Distinct:
    """Number the distinct values of a 1-d tensor from 0."""
    kinds, inverse = cast(tuple[Tensor, Tensor], values.unique(return_inverse=True))
    return Distinct(len(kinds), inverse)


def integers(values: Tensor) -> list[int]:
    """A 1-d integer tensor as Python ints."""
    return cast(list[int], values.tolist())


__all__ = ["Distinct", "distinct", "integers"]
