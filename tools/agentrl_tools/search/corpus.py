"""Corpora on disk: one JSON object a line, as Search-R1 writes them or with the title apart.

Search-R1 (arXiv:2503.09516; its README): `{"id": "0", "contents": "\\"title\\"\\ntext"}`. Also read:
`{"id": ..., "title": ..., "text": ...}`. Plain or gzip.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, cast

from agentrl.errors import UserError
from agentrl.retrieval import Passage, split_contents
from agentrl.types import JsonValue

Told = Callable[[int], None]
"""Hears how many bytes of the file have been read."""
STARTER = Path(__file__).with_name("starter.jsonl")
"""A few dozen passages to try things out with."""
SQLITE_MAGIC = b"SQLite format 3\0"
"""How an fts5 index begins."""
_TOLD_EVERY = 512


def read_lines(path: Path, told: Told | None = None) -> Iterator[tuple[int, Passage]]:
    """Line numbers, from 1, and passages, in file order; blank lines are skipped.

    Ids may repeat: what reads on into an index notices, or `read_corpus`. Raises UserError naming file
    and line.
    """
    if not path.is_file():
        raise UserError(f"there is no corpus {path}; give a .jsonl file of passages or an index")
    with path.open("rb") as raw, _unpacked(raw, path) as file:
        if raw.peek(len(SQLITE_MAGIC)).startswith(SQLITE_MAGIC):
            raise UserError(f"{path} is an index already; search it with retriever=fts5")
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, passage_of(line, f"{path}:{number}")
                if told is not None and number % _TOLD_EVERY == 0:
                    told(raw.tell())
        except (gzip.BadGzipFile, EOFError) as error:
            raise UserError(f"{path} is no complete gzip file ({error}); copy it again") from error
        if told is not None:
            told(raw.tell())


def _unpacked(raw: IO[bytes], path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw


def read_unique(path: Path, told: Told | None = None) -> Iterator[Passage]:
    """Passages in file order. Raises UserError, also for an id that occurs twice and for none."""
    first: dict[str, int] = {}
    for number, passage in read_lines(path, told):
        seen = first.setdefault(passage.id, number)
        if seen != number:
            raise UserError(repeated(path, number, passage.id, seen))
        yield passage
    if not first:
        raise UserError(empty(path))


def read_corpus(path: Path, told: Told | None = None) -> list[Passage]:
    """Every passage, sorted by id. Raises UserError as `read_unique` does."""
    return sorted(read_unique(path, told), key=lambda passage: passage.id)


def repeated(path: Path, number: int, name: str, seen: int) -> str:
    """What is wrong when an id occurs twice."""
    return f"{path}:{number}: the id {name!r} stands on line {seen} already; ids must be unique"


def empty(path: Path) -> str:
    """What is wrong with a corpus of no passage."""
    return f"{path} holds no passage; write one JSON object a line"


def checked(passages: Iterable[Passage]) -> list[Passage]:
    """Passages made in memory, sorted by id. Raises UserError when two share one."""
    found = sorted(passages, key=lambda passage: passage.id)
    for one, other in pairwise(found):
        if one.id == other.id:
            raise UserError(f"two passages have the id {one.id!r}; ids must be unique")
    return found


def passages_from(corpus: str | None, passages: Sequence[Passage] | None) -> list[Passage]:
    """What a retriever was given, sorted by id: a file to read, or passages.

    Raises UserError unless exactly one of the two is given.
    """
    if (corpus is None) == (passages is None):
        raise UserError("a retriever needs a corpus: corpus=<file.jsonl or index>")
    if passages is not None:
        return checked(passages)
    return read_corpus(Path(corpus or "").expanduser())


def passage_of(line: bytes | str, where: str) -> Passage:
    """One line. Raises UserError beginning with `where`."""
    try:
        row: object = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        told = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f"{where}{column}: no JSON ({told}); mend or delete the line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__} instead of a JSON object")
    fields = cast("dict[str, JsonValue]", row)
    name = fields.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise UserError(f'{where}: "id" must be a string or a number, not {name!r}')
    title, text = _title_and_text(fields, where)
    passage = Passage(str(name), title, text)
    try:
        "".join((passage.id, title, text)).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: half of a surrogate pair, which is no text; mend it") from None
    return passage


def _title_and_text(fields: dict[str, JsonValue], where: str) -> tuple[str, str]:
    contents = fields.get("contents")
    if isinstance(contents, str):
        return split_contents(contents)
    title, text = fields.get("title", ""), fields.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise UserError(f'{where}: needs "contents", or "title" and "text", as strings')
    return one_line(title), text


def one_line(title: str) -> str:
    """A title without line breaks."""
    return " ".join(title.split())


__all__ = [
    "SQLITE_MAGIC",
    "STARTER",
    "Told",
    "checked",
    "empty",
    "one_line",
    "passage_of",
    "passages_from",
    "read_corpus",
    "read_lines",
    "read_unique",
    "repeated",
]
