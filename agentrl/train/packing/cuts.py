"""Micro-batches that keep rows together which share their beginning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from agentrl.algo.types import Batch, MicroBatch
from agentrl.train.packing.forest import Growth, Indices, ordered

PAYS = 0.9
"""Largest share of the padded tokens at which packing is worth its kernel calls."""


def worth_packing(packed: int, padded: int, pays: float = PAYS) -> bool:
    """Whether the tokens of a forest go through the model, rather than its padded rows."""
    return packed <= pays * padded


def input_lengths(wanted: Tensor) -> Indices:
    """i64 [B]: leading tokens of each row that predict a wanted one (bool [B, T]); 0 for none."""
    columns = torch.arange(wanted.shape[1], device=wanted.device)
    return (wanted * columns).amax(1).cpu().numpy()


def shared_micro_batches(batch: Batch, max_tokens: int, wanted: Tensor) -> list[MicroBatch]:
    """Cover the rows that hold `wanted` (bool [B, T]) by micro-batches of neighbouring branches.

    Rows go in the order of their ids, as many at a time as fit into `max_tokens` computed tokens (one
    row may exceed it alone); a larger tree is cut, and each part computes its common beginning.
    Where nothing much is shared they are `Batch.micro_batches`, sorted by length.
    """
    lengths = input_lengths(wanted)
    flat = batch.micro_batches(max_tokens, wanted)
    padded = sum(len(micro.rows) * (micro.batch.token_ids.shape[1] - 1) for micro in flat)
    cuts, packed = _cuts(batch.token_ids.cpu().numpy(), lengths, max_tokens)
    if not worth_packing(packed, padded):
        return flat
    made: list[MicroBatch] = []
    for cut in cuts:
        rows = torch.from_numpy(cut).to(batch.token_ids.device)
        made.append(MicroBatch(rows, batch.select(rows, int(lengths[cut].max()) + 1)))
    return made


def _cuts(token_ids: Indices, lengths: Indices, max_tokens: int) -> tuple[Sequence[Indices], int]:
    """Row numbers of each micro-batch, and the packed tokens of all."""
    needed = np.flatnonzero(lengths)
    order = ordered(token_ids[needed], lengths[needed])
    cuts: list[list[int]] = []
    total = size = width = 0
    growth = Growth()
    for row, common in zip(needed[order.rows], order.common, strict=True):
        length = int(lengths[row])
        shared = growth.shared(int(common)) if cuts else 0
        wider = max(width, length)
        packed, padded = size + length - shared, wider * (len(cuts[-1]) + 1 if cuts else 1)
        computed = packed if worth_packing(packed, padded) else padded
        if not cuts or computed > max_tokens:
            cuts.append([])
            growth, shared, size, wider = Growth(), 0, 0, length
        growth.add(shared, length)
        width = wider
        cuts[-1].append(int(row))
        size += length - shared
        total += length - shared
    return [np.array(cut, dtype=np.int64) for cut in cuts], total


__all__ = ["PAYS", "input_lengths", "shared_micro_batches", "worth_packing"]
