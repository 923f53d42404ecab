"""An index that is a folder: the library's own files, the passages, and a note of what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from agentrl.errors import UserError
from agentrl.retrieval import Passage
from agentrl.types import JsonValue
from agentrl_tools.search.corpus import passages_from, read_corpus

_NOTE, _PASSAGES = "agentrl_index.json", "passages.jsonl"
_VERSION = 1
MadeWith = Mapping[str, object]
"""The options that shaped an index; it can only be searched with the same."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a retriever's passages come from."""

    passages: list[Passage]
    """Sorted by id."""
    index: Path | None
    """The folder of their index; None when it is yet to be made."""


def source_of(
    kind: str, made_with: MadeWith, corpus: str | None, passages: Sequence[Passage] | None
) -> Source:
    """The passages of a corpus, an index folder or memory. Raises UserError."""
    path = None if corpus is None else Path(corpus).expanduser()
    if path is None or passages is not None or not path.is_dir():
        return Source(passages_from(corpus, passages), None)
    check_note(path, kind, made_with)
    return Source(read_corpus(path / _PASSAGES), path)


def check_note(folder: Path, kind: str, made_with: MadeWith) -> None:
    """Raises UserError unless `folder` is an index of this kind, made with these options."""
    try:
        note = cast("Mapping[str, JsonValue]", json.loads((folder / _NOTE).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is no search index; make one with `agentrl data index`"
        ) from error
    if note.get("retriever") != kind:
        raise UserError(f"{folder} is an index of retriever={note.get('retriever')}, not {kind}")
    if note.get("version") != _VERSION:
        raise UserError(f"{folder} was made by another version of agentrl; build it again")
    for name, value in made_with.items():
        built = cast("Mapping[str, JsonValue]", note["made_with"]).get(name)
        if built != value:
            said = f"{name}={json.dumps(built)}, and now it is {json.dumps(value)}"
            raise UserError(f"{folder} was built with {said}: set it alike, or build it again")


def write_passages(folder: Path, passages: Sequence[Passage]) -> None:
    """Make the folder and write its passages."""
    folder.mkdir(parents=True)
    with (folder / _PASSAGES).open("w", encoding="utf-8") as file:
        for passage in passages:
            row = {"id": passage.id, "title": passage.title, "text": passage.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_note(folder: Path, kind: str, made_with: MadeWith) -> None:
    """Say what the folder is; written last."""
    note = {"retriever": kind, "version": _VERSION, "made_with": dict(made_with)}
    (folder / _NOTE).write_text(json.dumps(note), "utf-8")


__all__ = ["MadeWith", "Source", "check_note", "source_of", "write_note", "write_passages"]
