"""Sums over a micro-batch that add up to means over a whole batch."""

from __future__ import annotations

from torch import Tensor


def share_of_mean(values: Tensor, mask: Tensor, n: int) -> Tensor:
    """The sum of `values` [B, T] over `mask`, divided by the global count `n`.

    Off the mask a value may be infinite; it reaches neither the sum nor the gradient.
    """
    return values.masked_fill(~mask, 0.0).sum() / max(n, 1)


def share_of_constant(value: float, mask: Tensor, n: int) -> Tensor:
    """`value` times the part of the global count `n` that `mask` holds: adds up to `value`."""
    return value * mask.sum() / max(n, 1)


__all__ = ["share_of_constant", "share_of_mean"]
