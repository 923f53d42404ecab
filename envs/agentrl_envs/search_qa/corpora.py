"""Where passages come from that no world made: the task itself, or a retriever found by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from agentrl.errors import UserError
from agentrl.retrieval import Passage
from agentrl.types import JsonValue, Task
from agentrl_tools.search.named import Named

Settings: TypeAlias = Mapping[str, str | int | float | bool | None]
"""`{name: fts5, corpus: FILE, ...}`: a retriever's name, its corpus, its own options."""


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


def named(node: Settings) -> Named:
    """The retriever of `{name: fts5, corpus: FILE, ...}`, shared by all episodes of the process.

    Raises UserError when it has no name, or a corpus that is not a path.
    """
    name, corpus = node.get("name"), node.get("corpus")
    if not isinstance(name, str) or not isinstance(corpus, str | None):
        raise UserError("env.retriever needs a name, such as {name: fts5, corpus: corpus.jsonl}")
    return Named(name, {k: v for k, v in node.items() if k not in ("name", "corpus")}, corpus)


__all__ = ["Settings", "named", "own_passages"]
