"""Preference pairs within groups."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from agentrl.algo.tensors import integers
from agentrl.algo.types import Batch


class Pair(NamedTuple):
    """The best and the worst trajectory of a group."""

    better: Tensor
    """bool [B, T]: its policy tokens, over all its rows."""
    worse: Tensor
    """bool [B, T]."""


def best_and_worst(batch: Batch) -> list[Pair]:
    """One pair per group whose trained trajectories differ in reward, in order of groups.

    Trajectories that train no token take no part. Ties go to the lower trajectory index.
    """
    owners = integers(batch.trajectory_index)
    groups = integers(batch.group_index)
    members: dict[int, dict[int, float]] = {}
    for row, trains in enumerate(integers(batch.mask.any(1).long())):
        if trains:
            members.setdefault(groups[row], {})[owners[row]] = float(batch.rewards[row])
    pairs: list[Pair] = []
    for _, rewards in sorted(members.items()):
        ranked = sorted(rewards, key=lambda owner: (-rewards[owner], owner))
        worst = min(ranked, key=lambda owner: (rewards[owner], owner))
        if rewards[ranked[0]] > rewards[worst]:
            pairs.append(Pair(_tokens(batch, ranked[0]), _tokens(batch, worst)))
    return pairs


def _tokens(batch: Batch, trajectory: int) -> Tensor:
    return batch.mask & (batch.trajectory_index == trajectory)[:, None]


__all__ = ["Pair", "best_and_worst"]
