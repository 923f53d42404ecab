"""Stop strings across and inside tokens.

Ids of `pieces` (conftest): 90 "</co", 91 "de>", 92 "x</code>y", 93 + 94 the two bytes of "é";
below 90 one character each.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.engine.stops import StopMatcher


def first_hit(matcher: StopMatcher, ids: list[int]) -> tuple[int, str] | None:
    for n in range(1, len(ids) + 1):
        found = matcher.found(ids[:n])
        if found is not None:
            return n, found
    return None


@pytest.mark.parametrize(
    ("ids", "n"),
    [
        ([5, 90, 91, 6], 3),  # across two tokens
        ([5, 92, 6], 2),  # inside one token, which goes on after it
        ([90, 5, 91], None),  # interrupted
    ],
)
def test_a_string_is_found_where_it_is_complete(pieces, ids, n):
    expected = None if n is None else (n, "</code>")
    assert first_hit(StopMatcher(pieces, ("</code>",)), ids) == expected


def test_a_character_split_over_tokens_is_found_when_its_last_byte_comes(pieces):
    assert first_hit(StopMatcher(pieces, ("é",)), [1, 93, 94]) == (3, "é")
    assert first_hit(StopMatcher(pieces, ("é",)), [1, 94, 93, 2]) is None


def test_the_earliest_of_several_strings_in_one_token_wins(pieces):
    assert first_hit(StopMatcher(pieces, ("code>", "</co")), [92]) == (1, "</co")


def test_empty_strings_stop_nothing(pieces):
    assert first_hit(StopMatcher(pieces, ("",)), [1, 2, 3]) is None


@given(
    ids=st.lists(st.integers(0, 98), min_size=1, max_size=40),
    stop=st.text('!"#$%é</code>xy', min_size=1, max_size=5),
)
def test_it_agrees_with_decoding_everything_after_every_token(pieces, ids, stop):
    expected = next(
        (n for n in range(1, len(ids) + 1) if stop in pieces.decode(ids[:n])),
        None,
    )
    hit = first_hit(StopMatcher(pieces, (stop,)), ids)
    assert (hit[0] if hit else None) == expected
