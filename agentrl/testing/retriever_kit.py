"""The promises of `agentrl.retrieval.Retriever`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from agentrl.errors import WorldFault
from agentrl.retrieval import Hit, Passage, Retriever
from agentrl.testing.result import Check, CheckResult, expect, promise, run_checks

Make: TypeAlias = Callable[[], Retriever]
Over: TypeAlias = Callable[[Sequence[Passage]], Retriever]

_TOPICS = (
    ("Falcon", "The falcon nests on high cliffs and dives on its prey."),
    ("Bread", "Bread dough rises because yeast makes gas in it."),
    ("Volcano", "A volcano throws out lava and ash when it erupts."),
    ("Violin", "A violin has four strings and is played with a bow."),
    ("Glacier", "A glacier is a slow river of ice in the mountains."),
    ("Chess", "In chess the queen moves along rows, files and diagonals."),
    ("Coffee", "Coffee is brewed from roasted and ground beans."),
    ("Compass", "The needle of a compass points to the magnetic north."),
    ("Silk", "Silk thread comes from the cocoons of caterpillars."),
    ("Tide", "The tide follows the moon and comes in twice a day."),
)
TOPICS = tuple(
    Passage(f"topic-{number:02}", *about) for number, about in enumerate(reversed(_TOPICS))
)
"""Ten passages that share next to no words; each is best found by its own sentence."""
_SAME = "Copper kettles whistle in the old kitchen."
TWINS = tuple(Passage(f"twin-{name}", "", _SAME) for name in ("d", "b", "e", "a", "c"))
"""Five passages that differ in nothing but their ids."""
ANY_TEXT = (
    'what is "falcon"? (bird)',
    'falcon AND NOT OR NEAR/3 "',
    "title:falcon text:* ^falcon falcon* -falcon +falcon {falcon} [falcon TO tide]",
    "falcon'; DROP TABLE passages; --",
    "falcon\0cliffs",
    "🦅 falcon 🦅🏽‍♂️",
    "falcon \ud800 \udfff",
    "ﬁlter ‮noclaf‬ fa\u0301lcon ☃ İstanbul ß",
    "falcon\n\t\r\x0b\x1b[31m\u2028cliffs",
    "\\ % _ ? ~ ` $ # @ & | < > / , ; :",
    "falcon " * 2000,
    " ".join(f"word{number}" for number in range(2000)),
    "x" * 20_000,
)
"""What models write."""
NO_WORD = ("", "   \n", "?!...", '""', "🦅", "\0", "\ud800")
"""Queries without any word."""


async def check_retriever(
    make: Make | None = None,
    *,
    over: Over | None = None,
    queries: Sequence[str] = tuple(passage.text for passage in TOPICS[:4]),
) -> list[CheckResult]:
    """Test a retriever against the contract; each check makes a fresh one.

    Args:
        make: a retriever over whatever corpus; without it, one made by `over`.
        over: a retriever of given passages, for those that can be had so. What is found is checked
            only then; else that something is, how much and how often the same.
        queries: texts that `make`'s corpus has answers to.
    """
    if make is None and over is None:
        raise ValueError("check_retriever needs `make` or `over`")
    kit = _Kit(make, over, tuple(queries))
    checks = [
        promise(kit.any_text),
        promise(kit.no_word),
        promise(kit.best_first),
        promise(kit.at_most_k),
        promise(kit.bad_k),
        promise(kit.prefix),
        promise(kit.one_by_one),
        promise(kit.none_asked),
        promise(kit.concurrent),
        promise(kit.two_loops),
        promise(kit.unchanged),
        promise(kit.close_twice),
        promise(kit.closed),
    ]
    return await run_checks([*checks, *(_over_checks(over) if over is not None else ())])


def _over_checks(over: Over) -> list[Check]:
    kit = _Over(over)
    return [
        promise(kit.finds),
        promise(kit.operators),
        promise(kit.ties),
        promise(kit.all_of_few),
        promise(kit.empty),
    ]


class _Kit:
    """Holds for any corpus."""

    def __init__(self, make: Make | None, over: Over | None, queries: tuple[str, ...]) -> None:
        self._make, self._over = make, over
        self._queries = queries

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Retriever]:
        """A fresh retriever, made off the event loop; closed whatever happens."""
        retriever = await asyncio.to_thread(self._fresh)
        try:
            yield retriever
        finally:
            await retriever.close()

    def _fresh(self) -> Retriever:
        if self._make is not None:
            return self._make()
        assert self._over is not None
        return self._over(TOPICS)

    async def any_text(self) -> None:
        """Any text is a query."""
        async with self.opened() as retriever:
            for query in ANY_TEXT:
                found = await retriever.search([query], k=3)
                expect(len(found) == 1, f"{len(found)} answers to {query[:40]!r}")

    async def no_word(self) -> None:
        """A query without a word finds nothing."""
        async with self.opened() as retriever:
            found = await retriever.search(NO_WORD, k=3)
            expect(found == [[]] * len(NO_WORD), f"found {found} for {NO_WORD}")

    async def best_first(self) -> str:
        """Hits are ordered, best first, and no passage comes twice."""
        async with self.opened() as retriever:
            found = await retriever.search(self._queries, k=10)
        for hits in found:
            scores = [hit.score for hit in hits]
            expect(scores == sorted(scores, reverse=True), f"scores {scores}")
            expect(len(set(_ids(hits))) == len(hits), f"repeated among {_ids(hits)}")
            expect(all(hit.passage.id for hit in hits), "every passage has an id")
        expect(any(found), f"nothing found for {self._queries}; pass `queries` with answers")
        return f"{sum(map(len, found))} hits"

    async def at_most_k(self) -> None:
        """At most k hits, none for k = 0."""
        async with self.opened() as retriever:
            for k in (0, 1, 2, 1000):
                for hits in await retriever.search(self._queries, k=k):
                    expect(len(hits) <= k, f"{len(hits)} hits for k={k}")

    async def bad_k(self) -> None:
        """A negative k is refused."""
        async with self.opened() as retriever:
            try:
                found = await retriever.search(self._queries, k=-1)
            except ValueError:
                return
        expect(False, f"k=-1 gave {found}")

    async def prefix(self) -> None:
        """Fewer hits are the first of more."""
        async with self.opened() as retriever:
            few = await retriever.search(self._queries, k=2)
            many = await retriever.search(self._queries, k=5)
        for one, other in zip(few, many, strict=True):
            expect(_ids(one) == _ids(other)[:2], f"{_ids(one)} is not the start of {_ids(other)}")

    async def one_by_one(self) -> None:
        """A batch agrees with its queries one by one."""
        async with self.opened() as retriever:
            together = await retriever.search(self._queries, k=3)
            alone = [(await retriever.search([query], k=3))[0] for query in self._queries]
        expect(together == alone, f"together {together}, alone {alone}")

    async def none_asked(self) -> None:
        """No queries, no answers."""
        async with self.opened() as retriever:
            expect(await retriever.search([], k=3) == [], "search([]) is []")

    async def concurrent(self) -> None:
        """Concurrent searches agree with serial ones."""
        async with self.opened() as retriever:
            serial = [await retriever.search([query], k=3) for query in self._queries]
            async with asyncio.TaskGroup() as group:
                running = [
                    group.create_task(retriever.search([query], k=3))
                    for _ in range(8)
                    for query in self._queries
                ]
            for number, task in enumerate(running):
                expect(task.result() == serial[number % len(serial)], "other hits when concurrent")

    async def two_loops(self) -> None:
        """It serves several event loops."""

        async def elsewhere(retriever: Retriever) -> list[list[Hit]]:
            found = await retriever.search(self._queries, k=3)
            idle = getattr(retriever, "idle", None)
            if idle is not None:
                await idle()
            return found

        async with self.opened() as retriever:
            here = await retriever.search(self._queries, k=3)
            there = await asyncio.to_thread(lambda: asyncio.run(elsewhere(retriever)))
            expect(here == there, "other hits in another event loop")

    async def unchanged(self) -> None:
        """Searching changes nothing."""
        async with self.opened() as retriever:
            before = await retriever.search(self._queries, k=3)
            await retriever.search([*ANY_TEXT[:4], *self._queries], k=7)
            expect(await retriever.search(self._queries, k=3) == before, "other hits afterwards")

    async def close_twice(self) -> None:
        """Close is idempotent."""
        async with self.opened() as retriever:
            await retriever.close()
            await retriever.close()

    async def closed(self) -> None:
        """Once closed, it raises WorldFault."""
        async with self.opened() as retriever:
            await retriever.close()
            try:
                found = await retriever.search(self._queries[:1], k=1)
            except WorldFault:
                return
        expect(False, f"a closed retriever found {found}")


class _Over:
    """Holds for passages that are known."""

    def __init__(self, over: Over) -> None:
        self._over = over

    async def _search(
        self, passages: Sequence[Passage], queries: Sequence[str], k: int
    ) -> list[list[Hit]]:
        retriever = await asyncio.to_thread(self._over, passages)
        try:
            return await retriever.search(queries, k=k)
        finally:
            await retriever.close()

    async def finds(self) -> None:
        """The passage that is asked for comes first."""
        queries = [passage.text for passage in TOPICS]
        found = await self._search(TOPICS, queries, 3)
        for passage, hits in zip(TOPICS, found, strict=True):
            first = hits[0].passage if hits else None
            expect(first == passage, f"{first} for {passage.text!r}")

    async def operators(self) -> None:
        """Operators and quotes are words like others."""
        passages = [*TOPICS, *(Passage(f"z{n}", "", f"Nothing of note, {n}.") for n in range(30))]
        query = '"falcon NOT (slow glacier" AND -cliffs title:ice*'
        (hits,) = await self._search(passages, [query], 2)
        titles = sorted(hit.passage.title for hit in hits)
        expect(titles == ["Falcon", "Glacier"], f"{query} found {titles}")

    async def ties(self) -> None:
        """Ties are in the order of ids."""
        for k in (1, 2, 3, 4, 5):
            (hits,) = await self._search([*TOPICS, *TWINS], [_SAME], k)
            wanted = [f"twin-{name}" for name in "abcde"[:k]]
            expect(_ids(hits) == wanted, f"{_ids(hits)} instead of {wanted}")

    async def all_of_few(self) -> None:
        """A k beyond the corpus gives what there is."""
        (hits,) = await self._search(TWINS[:2], [_SAME], 50)
        expect(_ids(hits) == ["twin-b", "twin-d"], f"found {_ids(hits)}")

    async def empty(self) -> None:
        """An empty corpus is searched in vain."""
        expect(await self._search((), ["falcon"], 3) == [[]], "hits out of nothing")


def _ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.passage.id for hit in hits]


__all__ = ["ANY_TEXT", "NO_WORD", "TOPICS", "TWINS", "check_retriever"]
