"""The world's own retriever, against scores by hand and the conformance kit."""

from __future__ import annotations

from math import log

import pytest

from agentrl.errors import UserError
from agentrl.retrieval import Passage
from agentrl.testing.retriever_kit import check_retriever
from agentrl_envs.search_qa.overlap import WordOverlap

ADA = Passage("a", "Ada", "Ada owns Rex.")
REX = Passage("b", "Rex", "Rex is fed by Bob.")
CAROL = Passage("c", "Carol", "Carol met Ada and Rex.")


async def test_keeps_every_promise() -> None:
    found = await check_retriever(over=WordOverlap)
    assert [c for c in found if not c.ok] == []


async def test_scores_by_hand() -> None:
    """`rex` stands in 3 of 3 passages: log 2; `fed` in one: log 4. A title counts a word twice."""
    ((first, second, third),) = await WordOverlap([ADA, REX, CAROL]).search(["Rex, fed!"], k=5)
    assert [h.passage.id for h in (first, second, third)] == ["b", "a", "c"]
    assert first.score == pytest.approx(2 * log(2) + log(4))
    assert second.score == third.score == pytest.approx(log(2))


async def test_a_word_counts_once_however_often_it_is_asked() -> None:
    overlap = WordOverlap([ADA, REX, CAROL])
    once, thrice, none = await overlap.search(["fed", "fed FED fed", "nobody"], k=1)
    assert once == thrice
    assert none == []


def test_ids_are_unique() -> None:
    with pytest.raises(UserError, match="share an id"):
        WordOverlap([ADA, ADA])
