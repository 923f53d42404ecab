"""The `fts5` retriever: SQLite's full-text index, in one file or in memory; needs no package."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import final
from urllib.parse import quote

from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.retrieval import Hit, Passage
from agentrl_tools.search.corpus import (
    SQLITE_MAGIC,
    Told,
    empty,
    passages_from,
    read_lines,
    repeated,
)
from agentrl_tools.search.local import LocalRetriever
from agentrl_tools.search.words import query_words

_KIND, _VERSION = 0x61675254, 1
"""Stamped into the file: whose it is, and its layout."""
_STAGE = """
CREATE TEMP TABLE staged(id TEXT PRIMARY KEY, line INTEGER, title TEXT, text TEXT) WITHOUT ROWID
"""
_BUILD = f"""
CREATE TABLE passages(number INTEGER PRIMARY KEY, id TEXT, title TEXT, text TEXT);
INSERT INTO passages(id, title, text) SELECT id, title, text FROM staged ORDER BY id;
DROP TABLE staged;
CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='passages', content_rowid='number',
    tokenize='porter unicode61 remove_diacritics 2'
);
INSERT INTO words(words) VALUES('rebuild');
INSERT INTO words(words) VALUES('optimize');
PRAGMA application_id = {_KIND};
PRAGMA user_version = {_VERSION};
"""
# Rows were numbered in the order of their ids, so ties by number are ties by id.
# `bm25(words)` and not `rank`, which is the same and takes a third longer.
_FIND = """
SELECT p.id, p.title, p.text, -f.score
FROM (
    SELECT rowid, bm25(words) AS score FROM words WHERE words MATCH ?
    ORDER BY score, rowid LIMIT ?
) AS f
JOIN passages AS p ON p.number = f.rowid ORDER BY f.score, f.rowid
"""
_COUNT = "SELECT count(*) FROM words WHERE words MATCH ?"
_REMEMBERED = 100_000


@final
class Fts5(LocalRetriever):
    """BM25 by SQLite's FTS5, with Porter's stems; the default, and it needs no package.

    Words that stand in half of all passages or more weigh nothing there (their IDF is floored at
    1e-6), yet cost the most; they are left out unless too little is found without them.
    """

    def __init__(
        self,
        corpus: str | None = None,
        *,
        passages: Sequence[Passage] | None = None,
        threads: int = 4,
    ) -> None:
        """`corpus`: an index made by `agentrl data index`, or a .jsonl file, which is indexed in
        memory. `passages`: instead of a corpus. `threads`: searches at once on an index file; in
        memory it is one.

        Raises UserError on a bad corpus, SetupError when this Python's SQLite lacks FTS5.
        """
        self._path = _index_file(corpus) if corpus is not None else None
        super().__init__(threads=threads if self._path is not None else 1)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._memory: sqlite3.Connection | None = None
        self._spread: dict[str, int] = {}
        if self._path is None:
            rows = enumerate(passages_from(corpus, passages), 1)
            self._memory = _connected(":memory:")
            self._opened.append(self._memory)
            try:
                _fill(self._memory, rows, Path(corpus or "the corpus"))
            except BaseException:
                self.release()
                raise
        try:
            self._size = self._count_all()
        except sqlite3.Error as error:
            self.release()
            raise UserError(f"{self._path} is damaged ({error}); build it again") from error

    @classmethod
    def build_index(cls, corpus: Path, index: Path, told: Told) -> int:
        """Write the index of a corpus to a new file; returns the number of passages.

        Raises UserError naming file and line.
        """
        connection = _connected(str(index))
        try:
            connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            count = _fill(connection, read_lines(corpus, told), corpus)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(index)) from error
            raise
        finally:
            connection.close()
        if not count:
            raise UserError(empty(corpus))
        return count

    def find(self, query: str, k: int) -> list[Hit]:
        """Passages that hold any of the query's words."""
        words = query_words(query)
        if not words:
            return []
        try:
            telling = [word for word in words if 0 < self._held_by(word) < self._size / 2]
            hits = self._match(telling, k) if telling else []
            return hits if len(hits) == k or len(telling) == len(words) else self._match(words, k)
        except sqlite3.Error as error:
            raise WorldFault(f"the index {self._path or 'in memory'} failed: {error}") from error

    def _match(self, words: Sequence[str], k: int) -> list[Hit]:
        rows = self._connection().execute(_FIND, (_any_of(words), k))
        return [Hit(Passage(name, title, text), score) for name, title, text, score in rows]

    def _held_by(self, word: str) -> int:
        """Passages that hold a word, counted once."""
        count = self._spread.get(word)
        if count is None:
            count = self._connection().execute(_COUNT, (_any_of([word]),)).fetchone()[0]
            if len(self._spread) >= _REMEMBERED:
                self._spread.clear()
            self._spread[word] = count
        return count

    def _count_all(self) -> int:
        return self._connection().execute("SELECT count(*) FROM passages").fetchone()[0]

    def _connection(self) -> sqlite3.Connection:
        """The only one in memory; of a file, this thread's own."""
        if self._memory is not None:
            return self._memory
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            name = quote(os.path.abspath(str(self._path)))
            found = _connected(f"file:{name}?mode=ro&immutable=1")
            found.execute("PRAGMA mmap_size = 1073741824")
            self._local.connection = found
            self._opened.append(found)
        return found

    def release(self) -> None:
        """Close every connection."""
        while self._opened:
            self._opened.pop().close()


def _any_of(words: Sequence[str]) -> str:
    """An FTS5 query in which nothing is an operator: https://sqlite.org/fts5.html section 3.1."""
    return " OR ".join(f'"{word}"' for word in words)


def _connected(name: str) -> sqlite3.Connection:
    return sqlite3.connect(name, uri=name.startswith("file:"), check_same_thread=False)


def _index_file(corpus: str) -> Path | None:
    """The path of an index; None for a corpus that is yet to be read."""
    path = Path(corpus).expanduser()
    try:
        with path.open("rb") as file:
            if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                return None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, and an fts5 index is a file") from None
    except OSError:
        return None
    connection = _connected(f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1")
    try:
        kind = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise UserError(f"{path} is damaged ({error}); build it again") from error
    finally:
        connection.close()
    if (kind, version) != (_KIND, _VERSION):
        raise UserError(f"{path} is no search index of this version; see `agentrl data index`")
    return path


def _fill(connection: sqlite3.Connection, rows: Iterable[tuple[int, Passage]], source: Path) -> int:
    """Index passages into an empty database. Raises UserError on an id that occurs twice."""
    last: tuple[int, Passage] = (0, Passage("", "", ""))

    def values() -> Iterator[tuple[str, int, str, str]]:
        nonlocal last
        for last in rows:
            number, passage = last
            yield passage.id, number, passage.title, passage.text

    connection.execute(_STAGE)
    try:
        connection.executemany("INSERT INTO staged VALUES(?, ?, ?, ?)", values())
    except sqlite3.IntegrityError:
        number, passage = last
        query = "SELECT line FROM staged WHERE id = ?"
        seen = connection.execute(query, (passage.id,)).fetchone()[0]
        raise UserError(repeated(source, number, passage.id, seen)) from None
    count: int = connection.execute("SELECT count(*) FROM staged").fetchone()[0]
    connection.commit()
    try:
        connection.executescript(_BUILD)
    except sqlite3.OperationalError as error:
        if "fts5" not in str(error):
            raise
        raise SetupError(
            "this Python's SQLite lacks FTS5; use retriever=bm25s or another Python"
        ) from error
    return count
