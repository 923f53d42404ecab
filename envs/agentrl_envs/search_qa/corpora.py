"""Where passages come from that no world made: the task itself, or a retriever found by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.plugins import build
from agentrl.retrieval import Passage, Retriever
from agentrl.types import JsonValue, Task


def own_passages(task: Task) -> list[Passage]:
    """The task's `passages`, `{title, text}` each, in order; none when it brings none.

    Raises UserError on entries of another form.
    """
    listed = task.metadata.get("passages")
    if not isinstance(listed, list | tuple):
        return []
    return [_passage(entry, i, task) for i, entry in enumerate(cast(list[JsonValue], listed))]


def _passage(entry: JsonValue, index: int, task: Task) -> Passage:
    title, text = (
        (entry.get("title"), entry.get("text")) if isinstance(entry, Mapping) else (None, None)
    )
    if not isinstance(title, str) or not isinstance(text, str):
        raise UserError(f"task {task.id}: passage {index} is not {{title: ..., text: ...}}")
    return Passage(f"{index:05d}", title, text)


@dataclass(frozen=True, slots=True)
class _Loan:
    retriever: Retriever
    holders: int


class Borrowed:
    """Retrievers by their configuration, one of each, closed when the last episode gives it back.

    An index of gigabytes is opened once for all episodes that are in flight.
    """

    def __init__(self) -> None:
        self._loans: dict[str, _Loan] = {}

    async def borrow(self, node: Mapping[str, JsonValue]) -> Retriever:
        """The retriever of a node with `name` and its options. Raises UserError on a wrong one."""
        key = json.dumps(node, sort_keys=True, default=str)
        loan = self._loans.get(key)
        if loan is None:
            loan = _Loan(build("retriever", Plugin.model_validate(dict(node))), 0)
        self._loans[key] = replace(loan, holders=loan.holders + 1)
        return loan.retriever

    async def give_back(self, retriever: Retriever) -> None:
        """Count one holder less."""
        for key, loan in list(self._loans.items()):
            if loan.retriever is retriever:
                if loan.holders > 1:
                    self._loans[key] = replace(loan, holders=loan.holders - 1)
                    return
                del self._loans[key]
                await retriever.close()
                return


BORROWED = Borrowed()
"""Of this process."""

__all__ = ["BORROWED", "Borrowed", "own_passages"]
