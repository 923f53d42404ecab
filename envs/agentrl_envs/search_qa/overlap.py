"""The world's own retriever: passages by the words they share with the query, rare ones first.

score(q, p) = sum over the query's distinct words w of log(1 + N / df(w)) (1 + [w in title]), N passages
of which df(w) hold w. No words are skipped, no lengths weighed: small, exact and the same everywhere.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from agentrl.errors import UserError, WorldFault
from agentrl.retrieval import Hit, Passage
from agentrl_tools.search.words import query_words, words_of


class WordOverlap:
    """Implements `agentrl.retrieval.Retriever` over passages in memory."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Raises UserError when two passages share an id."""
        self._passages = tuple(passages)
        self._closed = False
        self._holders: dict[str, list[tuple[int, int]]] = defaultdict(list)
        if len({p.id for p in passages}) != len(passages):
            raise UserError("two passages share an id; give every passage one of its own")
        for index, passage in enumerate(passages):
            titled = set(words_of(passage.title))
            for word in dict.fromkeys(words_of(f"{passage.title} {passage.text}")):
                self._holders[word].append((index, 1 + (word in titled)))

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever.search`. Raises ValueError on a negative k."""
        if self._closed:
            raise WorldFault("these passages are closed")
        if k < 0:
            raise ValueError(f"k is not negative, not {k}")
        return [self.found(query, k) for query in queries]

    def found(self, query: str, k: int) -> list[Hit]:
        """At most `k` hits of one query."""
        scores: dict[int, float] = defaultdict(float)
        for word in query_words(query):
            holders = self._holders.get(word, ())
            weight = math.log(1 + len(self._passages) / max(1, len(holders)))
            for index, times in holders:
                scores[index] += weight * times
        hits = [Hit(self._passages[index], score) for index, score in scores.items()]
        return sorted(hits, key=lambda hit: (-hit.score, hit.passage.id))[:k]

    async def close(self) -> None:
        """Search no more; worlds are shared and stay open."""
        self._closed = True


__all__ = ["WordOverlap"]
