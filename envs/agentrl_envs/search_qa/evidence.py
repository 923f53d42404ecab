"""Evidence that can be bad, and whether it is: what ReSeek's judgements are about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from agentrl.retrieval import Hit, Retriever
from agentrl.seeds import derive
from agentrl.types import Task
from agentrl.verify.text_answer import contains_match
from agentrl_envs.search_qa.base import accepted
from agentrl_envs.search_qa.world import PAGE

_JUDGED = re.compile(r"<judge>\s*(yes|no)\s*</judge>", re.IGNORECASE)
_PLENTY = 1000
"""Hits among which those are looked for that are no pages."""


def verdict(text: str) -> bool | None:
    """What the first `<judge>` of a turn says; None when it says nothing."""
    found = _JUDGED.search(text)
    return None if found is None else found[1].lower() == "yes"


def misses(task: Task, search: int, share: float) -> bool:
    """Whether the search of that index, from 0, misses: with probability `share`, never twice running.

    It depends on the task alone, so that siblings meet the same luck and an expert can foresee it.
    """
    missed = False
    for index in range(search + 1):
        missed = not missed and Random(derive("miss", task.id, index)).random() < share
    return missed


class Sidelong:
    """A retriever that finds what mentions the query, and never a page of the world's own."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    async def search(self, queries: Sequence[str], *, k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        found = await self._retriever.search(queries, k=_PLENTY)
        return [[h for h in hits if not h.passage.id.startswith(PAGE)][:k] for hits in found]

    async def close(self) -> None:
        """Its owner closes what is behind it."""


def supports(task: Task, shown: str) -> bool:
    """Whether what a search showed holds a page that the question needs.

    Those are the pages of the entities on the way to the answer, or the titles that a question file
    calls supporting; a task with neither is supported by whatever names a gold answer.
    """
    needed = _needed(task)
    if not needed:
        return contains_match(shown, accepted(task))
    lines = shown.splitlines()
    return any(
        f'(Title: "{title}")' in shown or any(line.startswith(f"{title}: ") for line in lines)
        for title in needed
    )


def _needed(task: Task) -> list[str]:
    path, support = task.metadata.get("path"), task.metadata.get("support")
    if isinstance(path, list | tuple):
        return [str(name) for name in path[:-1]]
    return [str(title) for title in support] if isinstance(support, list | tuple) else []


__all__ = ["Sidelong", "misses", "supports", "verdict"]
