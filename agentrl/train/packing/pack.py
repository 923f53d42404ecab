"""A micro-batch as its forest: what goes through the model, and which of its states score what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.train.packing.cuts import PAYS, input_lengths, worth_packing
from agentrl.train.packing.forest import MIN_SHARED, Forest, forest


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A forest and the M different tokens to score in it; rows that share a token share its score."""

    forest: Forest
    """What the model computes."""
    predictors: Tensor
    """i64 [M]: the packed token whose state predicts each."""
    targets: Tensor
    """i64 [M]: its id."""
    temperatures: Tensor
    """f32 [M]: what it is scored under; rows may differ in that."""
    copies: Tensor
    """i64 [n]: which of the M each wanted token is, in row order."""


def pack(
    batch: Batch, wanted: Tensor, *, pays: float = PAYS, min_shared: int = MIN_SHARED
) -> Packed | None:
    """The forest that scores `wanted` (bool [B, T], never index 0), on the CPU.

    None when it holds more than `pays` of the padded tokens.
    """
    ids = batch.token_ids.cpu().numpy()
    found = forest(ids, input_lengths(wanted), min_shared=min_shared)
    if not worth_packing(len(found), len(ids) * (ids.shape[1] - 1), pays):
        return None
    rows, columns = wanted.cpu().numpy().nonzero()
    predictors, targets = found.places[rows, columns - 1], ids[rows, columns]
    kinds, kind = np.unique(batch.temperatures.cpu().numpy()[rows, columns], return_inverse=True)
    keys = (predictors * (ids.max() + 1) + targets) * len(kinds) + kind
    _, first, copies = np.unique(keys, return_index=True, return_inverse=True)
    return Packed(
        found,
        torch.from_numpy(predictors[first]),
        torch.from_numpy(targets[first]),
        torch.from_numpy(kinds[kind[first]]),
        torch.from_numpy(copies),
    )


__all__ = ["Packed", "pack"]
