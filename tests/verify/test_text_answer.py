"""SQuAD-style scores, with the values worked out by hand."""

from __future__ import annotations

import pytest

from agentrl.verify import contains_match, exact_match, normalise_text, token_f1

NORMALISED = [
    ("The  Beatles!", "beatles"),
    ("An apple a day", "apple day"),
    ("semi-a", "semia"),
    ("U.S.A.", "usa"),
    ("theatre", "theatre"),
    ("  \t\n", ""),
]


@pytest.mark.parametrize(("text", "normal"), NORMALISED)
def test_normalise(text: str, normal: str) -> None:
    assert normalise_text(text) == normal


def test_exact_and_contained() -> None:
    assert exact_match("the beijing.", ["Beijing"])
    assert not exact_match("it is Beijing city", ["Beijing"])
    assert contains_match("it is Beijing city", ["Beijing"])
    assert exact_match("NYC", ["New York City", "nyc"])
    assert not contains_match("Paris", ["Beijing", "London"])


def test_no_answer_scores_zero_and_a_lone_gold_is_one_gold() -> None:
    assert (exact_match(None, ["x"]), contains_match(None, ["x"]), token_f1(None, ["x"])) == (
        0,
        0,
        0,
    )
    assert exact_match("Beijing", "beijing")
    assert not exact_match("b", "beijing")
    assert token_f1("x", []) == 0.0


def test_a_gold_of_only_an_article_is_not_in_everything() -> None:
    assert not contains_match("anything", ["A"])
    assert contains_match("the", ["A"])


def test_f1() -> None:
    # shared {barack, obama}: precision 2/3, recall 2/2
    assert token_f1("president barack obama", ["Barack Obama"]) == pytest.approx(0.8)
    # the better of two golds; "b b" shares one "b" with "b c": p = r = 1/2
    assert token_f1("b b", ["x", "b c"]) == pytest.approx(0.5)
    assert token_f1("cat", ["dog"]) == 0.0
    assert token_f1("the", ["an"]) == 1.0
    assert token_f1("the", ["dog"]) == 0.0
