"""Prefix-sticky, least-loaded routing, worked out by hand with blocks of four ids."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.engine.routing import PrefixRouter

A, B = [1, 2, 3, 4], [5, 6, 7, 8]


def router(imbalance: int = 2, **options) -> PrefixRouter:
    return PrefixRouter(imbalance, block_tokens=4, **options)


def test_an_unknown_row_goes_to_the_least_busy_and_among_equals_to_the_first():
    assert router().choose(A, {0: 3, 1: 1, 2: 1}) == 1
    assert router().choose([], {0: 0, 1: 0}) == 0


def test_a_row_follows_the_longest_prefix_that_was_served_last():
    """Replica 0 served A B, then replica 1 served A only: a row A B ... is 0's, a row A ... is 1's."""
    r = router()
    r.served(0, A + B)
    r.served(1, [*A, 9])  # the unfinished block counts as nothing
    equal = {0: 0, 1: 0}
    assert r.choose([*A, *B, 9], equal) == 0
    assert r.choose([*A, 9, 9, 9, 9], equal) == 1
    assert r.choose([*B, 9], equal) == 0  # B was cached behind A only
    assert r.choose([*A[:3]], {0: 1, 1: 0}) == 1  # shorter than a block


def test_a_holder_that_is_too_busy_loses_its_rows_until_it_has_caught_up():
    r = router(imbalance=2)
    r.served(0, A)
    assert r.choose(A, {0: 2, 1: 0}) == 0
    assert r.choose(A, {0: 3, 1: 0}) == 1
    assert router(imbalance=0).choose(A, {0: 1, 1: 1}) == 0


def test_a_dead_holder_is_passed_over_and_its_prefixes_forgotten():
    r = router()
    r.served(0, A)
    r.served(1, A + B)
    assert r.choose(A + B, {0: 5, 2: 4}) == 2  # 1 is not among the living, 0 holds nothing of it
    r.drop(1)
    assert len(r) == 0
    r.served(0, A)
    r.forget()
    assert r.choose(A, {0: 1, 1: 0}) == 1


def test_only_the_most_recently_used_blocks_are_remembered():
    r = router(max_blocks=2)
    r.served(1, A)
    r.served(0, B)
    r.served(1, A)  # used again: B is older now
    r.served(0, [9, 9, 9, 9])
    assert len(r) == 2
    assert r.choose(A, {0: 0, 1: 0}) == 1
    assert r.choose(B, {0: 1, 1: 0}) == 1


rows = st.lists(st.integers(0, 2), max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), rows), max_size=12), rows, st.integers(0, 5))
def test_the_choice_is_what_an_exhaustive_search_finds(history, row, busy):
    """Against a model that keeps every row: the last server of each whole-block prefix."""
    r, last = router(imbalance=2), {}
    for replica, served in history:
        r.served(replica, served)
        for end in range(4, len(served) + 1, 4):
            last[tuple(served[:end])] = replica
    loads = {0: busy, 1: 1, 2: 0, 3: 2}
    ends = [end for end in range(4, len(row) + 1, 4) if tuple(row[:end]) in last]
    expected = last[tuple(row[: max(ends)])] if ends else None
    if expected is None or loads[expected] > 2:
        expected = 2 if busy else 0
    assert r.choose(row, loads) == expected
