"""Small batches from rewards and token counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from agentrl.algo.types import Batch
from agentrl.transcript import Origin

Make = Callable[..., Batch]


def build(
    rewards: Sequence[float],
    groups: Sequence[int],
    lengths: Sequence[int] | None = None,
    trajectories: Sequence[int] | None = None,
) -> Batch:
    """One prompt token, then `lengths` trained tokens a row; `trajectories` ties rows together."""
    n = len(rewards)
    lengths = lengths or [1] * n
    index = torch.tensor(list(trajectories) if trajectories is not None else list(range(n)))
    width = 1 + max(lengths)
    columns = torch.arange(width)
    attended = columns <= torch.tensor(lengths)[:, None]
    mask = attended & (columns > 0)
    per_row = torch.tensor(lengths)
    totals = torch.zeros(int(index.max()) + 1, dtype=torch.int64).index_add(0, index, per_row)[
        index
    ]
    return Batch(
        token_ids=torch.ones(n, width, dtype=torch.int64),
        attention_mask=attended,
        mask=mask,
        behaviour_logprobs=torch.zeros(n, width),
        temperatures=torch.ones(n, width),
        versions=torch.where(mask, 0, -1).int(),
        origins=torch.where(mask, int(Origin.MODEL), 0).to(torch.int8),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        weights=torch.ones(n),
        trajectory_index=index,
        group_index=torch.tensor(groups),
        lengths=totals,
        trained=totals,
        contexts=torch.zeros(n, dtype=torch.int8),
        correct=torch.tensor([reward >= 1 for reward in rewards]),
        parents=torch.full((n,), -1),
        forks=torch.zeros(n, dtype=torch.int64),
        n_tokens=int(mask.sum()),
        n_sequences=len(set(index.tolist())),
    )


def observing(batch: Batch, places: Sequence[tuple[int, int]]) -> Batch:
    """Trained tokens at (row, column) become observations; lengths and counts follow."""
    mask, origins = batch.mask.clone(), batch.origins.clone()
    for row, column in places:
        assert mask[row, column]
        mask[row, column] = False
        origins[row, column] = int(Origin.OBSERVATION)
    return recounted(replace(batch, mask=mask, origins=origins))


def recounted(batch: Batch) -> Batch:
    """Lengths and counts from mask and origins."""
    written = (batch.origins == int(Origin.MODEL)) | (batch.origins == int(Origin.FORCED))
    same = (batch.trajectory_index[:, None] == batch.trajectory_index[None]).long()
    return replace(batch, lengths=same @ written.sum(1), trained=same @ batch.mask.sum(1)).recount()


@pytest.fixture
def make() -> Make:
    return build


@pytest.fixture
def observe() -> Callable[[Batch, Sequence[tuple[int, int]]], Batch]:
    return observing


@pytest.fixture
def recount() -> Callable[[Batch], Batch]:
    return recounted
