"""Statistics within groups of a flat vector: every member gets its own group's number back.

Groups are numbered 0..n-1; vectors are f64 [N]. What is grouped (trajectories, turns, tokens) is the
caller's business.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agentrl.errors import UserError


def check_ddof(ddof: int) -> None:
    """Raises UserError unless it is 1 (sample deviation) or 0 (population)."""
    if ddof not in (0, 1):
        raise UserError(f"advantage.ddof is 0 or 1, not {ddof}; use 1 as the papers do")


def group_sum(values: Tensor, groups: Tensor) -> Tensor:
    """Sum over the own group [N]."""
    totals = torch.zeros(_n(groups), dtype=values.dtype, device=values.device)
    return totals.index_add(0, groups, values)[groups]


def group_size(values: Tensor, groups: Tensor) -> Tensor:
    """Members of the own group [N], in the type of `values`."""
    return group_sum(torch.ones_like(values), groups)


def group_extent(values: Tensor, groups: Tensor) -> Tensor:
    """Largest minus smallest value of the own group [N]; exactly 0 where all are equal."""
    totals = torch.zeros(_n(groups), dtype=values.dtype, device=values.device)
    high = totals.scatter_reduce(0, groups, values, "amax", include_self=False)
    low = totals.scatter_reduce(0, groups, values, "amin", include_self=False)
    return (high - low)[groups]


def group_deviation(values: Tensor, groups: Tensor, ddof: int) -> Tensor:
    """Standard deviation of the own group [N]; 1 where there are too few members for one."""
    sizes = group_size(values, groups)
    squares = group_sum((values - group_sum(values, groups) / sizes) ** 2, groups)
    deviation = (squares / (sizes - ddof).clamp(min=1)).sqrt()
    return deviation.masked_fill((sizes <= ddof) | (sizes == 1), 1.0)


def group_normal(
    values: Tensor,
    groups: Tensor,
    *,
    scaled: bool = True,
    ddof: int = 1,
    eps: float = 1e-6,
    lone: Literal["raw", "zero"] = "raw",
) -> Tensor:
    """(x - mean) / (deviation + eps) within the own group [N]; without the division if not `scaled`.

    A group of equal values gives exactly 0. A lone member has nothing to compare with: it keeps
    its raw value (what verl does with groups of one), or gets 0.
    """
    sizes = group_size(values, groups)
    centred = values - group_sum(values, groups) / sizes
    centred = centred.masked_fill(group_extent(values, groups) == 0, 0.0)
    if lone == "raw":
        centred = torch.where(sizes == 1, values, centred)
    return centred / (group_deviation(values, groups, ddof) + eps) if scaled else centred


def _n(groups: Tensor) -> int:
    return int(groups.max()) + 1 if len(groups) else 0


__all__ = [
    "check_ddof",
    "group_deviation",
    "group_extent",
    "group_normal",
    "group_size",
    "group_sum",
]
