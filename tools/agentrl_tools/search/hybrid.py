"""The `hybrid` retriever: several retrievers, their rankings fused."""

from __future__ import annotations

import asyncio
from asyncio import Task
from collections.abc import Mapping, Sequence
from typing import final

from agentrl.errors import UserError
from agentrl.retrieval import Hit, Passage, Retriever
from agentrl_tools.search.local import wanted
from agentrl_tools.search.named import make


@final
class Hybrid:
    """Several retrievers at once, fused by reciprocal rank (Cormack et al., SIGIR 2009)."""

    def __init__(
        self,
        corpus: str | None = None,
        *,
        passages: Sequence[Passage] | None = None,
        over: Sequence[str | Mapping[str, object]] = ("fts5", "dense"),
        constant: float = 60.0,
        depth: int = 50,
    ) -> None:
        """`over`: names of retrievers, or `{name: dense, encoder: ...}` with their options. `corpus`,
        `passages`: handed to those that take them, unless they name their own. `constant`: the
        fusion's; larger trusts first places less. `depth`: hits each is asked for.

        Raises UserError on fewer than two retrievers, and what the retrievers raise.
        """
        if len(over) < 2 or constant < 0 or depth < 1:
            raise UserError("hybrid needs two retrievers in over=[...], constant >= 0, depth >= 1")
        self._constant, self._depth = constant, depth
        self._over = [_member(member, corpus, passages) for member in over]

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """At most `k` hits per query. Raises WorldFault when any of the retrievers cannot answer."""
        if not wanted(queries, k):
            return [[] for _ in queries]
        depth = max(k, self._depth)
        running: list[Task[list[list[Hit]]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                running += [group.create_task(r.search(queries, k=depth)) for r in self._over]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed  # callers sort faults by type
        answers = [task.result() for task in running]
        return [
            fused([answer[i] for answer in answers], k=k, constant=self._constant)
            for i in range(len(queries))
        ]

    async def idle(self) -> None:
        """Give up the connections of those that hold any."""
        from agentrl_tools.search.named import Idle

        for retriever in self._over:
            if isinstance(retriever, Idle):
                await retriever.idle()

    async def close(self) -> None:
        """Close every retriever."""
        for retriever in self._over:
            await retriever.close()


def fused(rankings: Sequence[Sequence[Hit]], *, k: int, constant: float = 60.0) -> list[Hit]:
    """The first `k` by reciprocal rank fusion, ties by passage id.

    Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
    learning methods", SIGIR 2009: `score(d) = sum over rankings r that hold d of
    1 / (constant + rank_r(d))`, ranks from 1, constant 60.
    """
    scores: dict[str, float] = {}
    passages: dict[str, Passage] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            name = hit.passage.id
            scores[name] = scores.get(name, 0.0) + 1.0 / (constant + rank)
            passages.setdefault(name, hit.passage)
    order = sorted(scores, key=lambda name: (-scores[name], name))
    return [Hit(passages[name], scores[name]) for name in order[:k]]


def _member(
    member: str | Mapping[str, object],
    corpus: str | None,
    passages: Sequence[Passage] | None,
) -> Retriever:
    if isinstance(member, str):
        return make(member, {}, corpus=corpus, passages=passages)
    options = {key: value for key, value in member.items() if key != "name"}
    name = member.get("name")
    if not isinstance(name, str):
        raise UserError("each retriever in over=[...] is a name or has one: {name: fts5}")
    own = "corpus" in options
    return make(name, options, corpus=None if own else corpus, passages=None if own else passages)


__all__ = ["Hybrid", "fused"]
