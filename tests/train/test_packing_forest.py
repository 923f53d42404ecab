"""The layout of a prefix forest, by hand and against what each token may see; and the micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.algo.batch import make_batch
from agentrl.algo.types import Batch
from agentrl.train.packing import pack, shared_micro_batches
from agentrl.train.packing.forest import Forest, forest

ROWS = st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=14), min_size=1, max_size=9)


def of(rows: Sequence[Sequence[int]], min_shared: int = 1) -> Forest:
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = row
    return forest(ids, lengths, min_shared=min_shared)


def batch_of(hand: Any, rows: Sequence[Sequence[int]]) -> Batch:
    """Every token but the first is trained."""
    longest = max(map(len, rows))
    group = hand.group("t", *([1.0] * len(rows)))
    members = [
        replace(hand.trajectory(group.task, i, tokens=longest - 1), reward=1.0)
        for i in range(len(rows))
    ]
    made = make_batch([replace(group, trajectories=tuple(members))], pad_id=0)
    ids = torch.zeros_like(made.token_ids)
    attended = torch.zeros_like(made.mask)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        attended[i, : len(row)] = True
    return replace(made, token_ids=ids, attention_mask=attended, mask=made.mask & attended)


def test_nested_branches_by_hand() -> None:
    """Thirteen tokens in four rows are eight, in three levels of pieces.

    Layout: 3 | 5 6 | 4 | 7 | 8 | 9 9, each piece with the end of what continues it.
    """
    made = of([[5, 6, 7, 8], [5, 6, 7, 9, 9], [5, 6, 4], [3]])
    assert made.token_ids.tolist() == [3, 5, 6, 4, 7, 8, 9, 9]
    assert made.positions.tolist() == [0, 0, 1, 2, 2, 3, 3, 4]
    assert made.places[0, :4].tolist() == [1, 2, 4, 5]
    assert made.places[1, :5].tolist() == [1, 2, 4, 6, 7]
    assert made.levels == (
        ((0, 1, 1), (1, 3, 8)),
        ((3, 4, 4), (4, 5, 8)),
        ((5, 6, 6), (6, 8, 8)),
    )


def test_equal_rows_and_prefixes_add_nothing() -> None:
    made = of([[1, 2, 3], [1, 2], [1, 2, 3], [1]])
    assert made.token_ids.tolist() == [1, 2, 3]
    assert made.places[:, 0].tolist() == [0, 0, 0, 0]


def test_a_short_common_beginning_is_computed_twice() -> None:
    """With at least three tokens for a branching point, the two in common are not worth one."""
    rows = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 9]]
    assert len(of(rows)) == 7
    made = of(rows, min_shared=3)
    assert made.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 1, 2, 9]
    # Where a row ends there is a branching point already: these two add one token each.
    assert len(of([*rows, [1, 2, 3, 4, 6, 7], [1, 2, 3, 4, 6, 8]], min_shared=3)) == 11


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, min_shared=st.integers(1, 5))
def test_every_row_is_there_and_sees_itself_alone(rows: list[list[int]], min_shared: int) -> None:
    made = of(rows, min_shared)
    visible = np.zeros((len(made), len(made)), dtype=int)
    for row, places in zip(rows, made.places, strict=True):
        own = places[: len(row)]
        assert made.token_ids[own].tolist() == row
        assert made.positions[own].tolist() == list(range(len(row)))
        for t in range(len(row)):
            visible[own[t], own[: t + 1]] = 1
    seen = np.zeros_like(visible)
    for start, stop, end in (span for spans in made.levels for span in spans):
        seen[start:end, start:stop] += np.tri(end - start, stop - start, dtype=int)
    assert (seen == visible).all()
    assert len(made) <= sum(map(len, rows))
    if min_shared == 1:
        assert len(made) == len({tuple(row[: t + 1]) for row in rows for t in range(len(row))})


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(5, 6), min_size=2, max_size=12)),
        min_size=1,
        max_size=12,
    ),
    budget=st.integers(10, 60),
)
def test_micro_batches_cover_all_and_keep_their_bound(
    hand: Any, rows: list[tuple[int, list[int]]], budget: int
) -> None:
    """Rows of three families, each behind ten tokens of its own."""
    batch = batch_of(hand, [[family + 1] * 10 + tail for family, tail in rows])
    cuts = shared_micro_batches(batch, budget, batch.mask)
    assert sorted(row for cut in cuts for row in cut.rows.tolist()) == list(range(len(batch)))
    again = shared_micro_batches(batch, budget, batch.mask)
    assert [cut.rows.tolist() for cut in cuts] == [cut.rows.tolist() for cut in again]
    for cut in cuts:
        found = pack(cut.batch, cut.batch.mask)
        computed = cut.batch.token_ids[:, :-1].numel() if found is None else len(found.forest)
        # Batch.micro_batches counts the last token, which predicts nothing, too.
        assert computed <= budget or len(cut.rows) == 1
        assert cut.batch.mask.sum() == batch.mask[cut.rows].sum()


def test_families_stay_together_and_large_ones_are_cut(hand: Any) -> None:
    """Two prompts of 20 tokens, four tails of 6 (5 of them predict something) each, rows mixed.

    A family needs 20 + 4 x 5 = 40 tokens. With room for 40 each is a micro-batch; with room for 30
    it is two: 20 + 2 x 5 twice.
    """
    rows = [[1 + i % 2] * 20 + [10 + i] * 6 for i in range(8)]
    batch = batch_of(hand, rows)
    families = [cut.rows.tolist() for cut in shared_micro_batches(batch, 40, batch.mask)]
    assert families == [[0, 2, 4, 6], [1, 3, 5, 7]]
    halves = [cut.rows.tolist() for cut in shared_micro_batches(batch, 30, batch.mask)]
    assert halves == [[0, 2], [4, 6], [1, 3], [5, 7]]


def test_little_in_common_goes_by_length(hand: Any) -> None:
    rows = [[i + 1] * (10 + i) for i in range(6)]
    batch = batch_of(hand, rows)
    got = shared_micro_batches(batch, 32, batch.mask)
    expected = batch.micro_batches(32)
    assert [cut.rows.tolist() for cut in got] == [cut.rows.tolist() for cut in expected]
    assert all(pack(cut.batch, cut.batch.mask) is None for cut in got)


def test_a_shared_token_is_scored_once_per_temperature(hand: Any) -> None:
    """Four rows of 20 shared tokens and one of their own; the last row runs at another temperature.

    Wanted are 20 tokens a row: 19 shared ones twice, and four different last ones.
    """
    batch = batch_of(hand, [[7] * 20 + [10 + i] for i in range(4)])
    hot = batch.temperatures.clone()
    hot[3] = 0.5
    batch = replace(batch, temperatures=hot)
    found = pack(batch, batch.mask)
    assert found is not None
    assert len(found.forest) == 20
    assert len(found.targets) == 2 * 19 + 4
    wanted = batch.mask
    assert torch.equal(found.targets[found.copies], batch.token_ids[wanted])
    assert torch.equal(found.temperatures[found.copies], batch.temperatures[wanted])
    columns = wanted.nonzero()[:, 1]
    positions = torch.from_numpy(found.forest.positions)[found.predictors[found.copies]]
    assert torch.equal(positions, columns - 1)


@pytest.mark.parametrize("change", [lambda ids: ids, lambda ids: ids + 150_000])
def test_large_vocabularies_do_not_collide(hand: Any, change: Callable[[Any], Any]) -> None:
    batch = batch_of(hand, [[7] * 40 + [i, i + 1, i] for i in range(1, 5)])
    batch = replace(batch, token_ids=change(batch.token_ids))
    found = pack(batch, batch.mask)
    assert found is not None
    assert torch.equal(found.targets[found.copies], batch.token_ids[batch.mask])
