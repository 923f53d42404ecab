"""The retriever kit names exactly what is wrong with bad retrievers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentrl.errors import UserError, WorldFault
from agentrl.retrieval import Hit, Passage, Retriever
from agentrl.testing import failures
from agentrl.testing.retriever_kit import check_retriever
from agentrl_tools.search.words import query_words, words_of


class Overlap:
    """A right one: passages by how many of the query's words they hold, ties by id."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = passages
        self.is_closed = False
        self.searches = 0

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        if k < 0:
            raise UserError("k must not be negative")
        if self.is_closed:
            raise WorldFault("closed")
        self.searches += 1
        return [self.one(query, k) for query in queries]

    def one(self, query: str, k: int) -> list[Hit]:
        words = set(query_words(query))
        hits = [
            Hit(p, float(len(words & set(words_of(f"{p.title} {p.text}"))))) for p in self.passages
        ]
        return self.ordered([hit for hit in hits if hit.score])[:k]

    def ordered(self, hits: list[Hit]) -> list[Hit]:
        return sorted(hits, key=lambda hit: (-hit.score, hit.passage.id))

    async def close(self) -> None:
        self.is_closed = True


class Untied(Overlap):
    def ordered(self, hits: list[Hit]) -> list[Hit]:
        return sorted(hits, key=lambda hit: -hit.score)


class WorstFirst(Overlap):
    def ordered(self, hits: list[Hit]) -> list[Hit]:
        return super().ordered(hits)[::-1]


class Greedy(Overlap):
    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        return await super().search(queries, k=k + 1 if k >= 0 else k)


class Operators(Overlap):
    def one(self, query: str, k: int) -> list[Hit]:
        if query.count('"') % 2:
            raise ValueError("unbalanced quotes")
        return super().one(query.partition("NOT")[0], k)


class Talkative(Overlap):
    def one(self, query: str, k: int) -> list[Hit]:
        return super().one(query, k) or [Hit(p, 0.0) for p in self.passages[:k]]


class Moody(Overlap):
    """Finds less from search to search."""

    def one(self, query: str, k: int) -> list[Hit]:
        return super().one(query, max(0, k - self.searches + 1))


class Racy(Overlap):
    """Mixes up queries that are answered at the same time."""

    query = ""

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        self.query = queries[0] if queries else ""
        await asyncio.sleep(0)
        found = await super().search(queries, k=k)
        return [self.one(self.query, k), *found[1:]] if found else found


class Bound(Overlap):
    """Belongs to the first event loop that asks."""

    loop: Any = None

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        self.loop = self.loop or asyncio.get_running_loop()
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return await super().search(queries, k=k)


class Immortal(Overlap):
    async def close(self) -> None:
        if self.searches < 0:
            raise RuntimeError("closed already")
        self.searches = -1


class Lenient(Overlap):
    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        return await super().search(queries, k=abs(k))


class Padded(Overlap):
    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        return await super().search(queries, k=k) or [[]]


async def test_a_right_one_passes_all_eighteen() -> None:
    results = await check_retriever(over=Overlap)
    assert len(results) == 18
    assert failures(results) == []


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        (Untied, {"ties are in the order of ids"}),
        (WorstFirst, {"hits are ordered, best first, and no passage comes twice"}),
        (Greedy, {"at most k hits, none for k = 0"}),
        (Operators, {"any text is a query", "operators and quotes are words like others"}),
        (Talkative, {"a query without a word finds nothing"}),
        (Moody, {"searching changes nothing"}),
        (Racy, {"concurrent searches agree with serial ones"}),
        (Bound, {"it serves several event loops"}),
        (Immortal, {"close is idempotent", "once closed, it raises WorldFault"}),
        (Lenient, {"a negative k is refused"}),
        (Padded, {"no queries, no answers"}),
    ],
)
async def test_every_fault_has_its_name(
    bad: Callable[[Sequence[Passage]], Retriever], names: set[str]
) -> None:
    assert {result.name for result in failures(await check_retriever(over=bad))} >= names


async def test_without_known_passages_thirteen_promises_are_left() -> None:
    corpus = [Passage(str(i), "", f"word{i % 7} common") for i in range(40)]
    results = await check_retriever(lambda: Overlap(corpus), queries=["word3", "common"])
    assert (len(results), failures(results)) == (13, [])
    poor = failures(await check_retriever(lambda: Overlap(corpus), queries=["zzyzx"]))
    assert ["pass `queries`" in result.detail for result in poor] == [True]
    with pytest.raises(ValueError, match="needs `make` or `over`"):
        await check_retriever()
