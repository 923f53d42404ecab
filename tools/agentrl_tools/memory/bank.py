"""A memory bank: short texts under ids that are never used again, in SQLite with FTS5.

Memory-R1 (arXiv:2508.19828, section 3): ADD M + {f}; UPDATE replaces a memory's text; DELETE takes it
away; NOOP changes nothing. Each trajectory owns a bank in memory; nothing touches the disk.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from agentrl.errors import ToolError
from agentrl_tools.memory.vectors import Encoder, cosines, packed

MAX_TERMS = 64
"""Words of a query that are looked up; the rest is ignored."""

_WORD = re.compile(r"[^\W_]+")

_TABLES = """
CREATE TABLE entries (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, vector BLOB);
CREATE VIRTUAL TABLE words USING fts5(text, tokenize='unicode61');
"""


class Entry(NamedTuple):
    """One memory."""

    id: int
    """Counts from 1; never used again, not even after its memory is gone."""
    text: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a bank may hold."""

    entries: int = 512
    chars: int = 1000
    """Of one memory."""


@final
class MemoryBank:
    """The memories of one trajectory."""

    def __init__(self, *, bounds: Bounds | None = None, encoder: Encoder | None = None) -> None:
        """An empty bank; with an `encoder`, search ranks by cosine instead of words (BM25)."""
        self.bounds = bounds or Bounds()
        self._encoder = encoder
        self._db = _connect()
        self._db.executescript(_TABLES)

    def __len__(self) -> int:
        """How many memories there are."""
        return int(self._db.execute("SELECT count(*) FROM entries").fetchone()[0])

    def add(self, text: str) -> Entry:
        """ADD: remember `text` under a fresh id. Raises ToolError when it does not fit."""
        text = self._checked(text)
        if len(self) >= self.bounds.entries:
            full = f"The memory is full ({self.bounds.entries} entries)"
            raise ToolError(f"{full}: update or delete one before adding.")
        row = self._db.execute(
            "INSERT INTO entries (text, vector) VALUES (?, ?)", (text, self._vector(text))
        )
        entry = Entry(int(row.lastrowid or 0), text)
        self._db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", entry)
        return entry

    def update(self, entry_id: int, text: str) -> Entry:
        """UPDATE: replace a memory's text. Raises ToolError on an unknown id; nothing changes then."""
        self.get(entry_id)
        text = self._checked(text)
        self._db.execute(
            "UPDATE entries SET text = ?, vector = ? WHERE id = ?",
            (text, self._vector(text), entry_id),
        )
        self._db.execute("UPDATE words SET text = ? WHERE rowid = ?", (text, entry_id))
        return Entry(entry_id, text)

    def delete(self, entry_id: int) -> Entry:
        """DELETE: forget a memory and return it. Raises ToolError on an unknown id."""
        entry = self.get(entry_id)
        self._db.execute("DELETE FROM entries WHERE id = ?", (entry_id,))
        self._db.execute("DELETE FROM words WHERE rowid = ?", (entry_id,))
        return entry

    def get(self, entry_id: int) -> Entry:
        """A memory by id. Raises ToolError that names the ids there are."""
        found = None
        if abs(entry_id) < 1 << 63:
            query = "SELECT id, text FROM entries WHERE id = ?"
            found = self._db.execute(query, (entry_id,)).fetchone()
        if found is None:
            raise ToolError(f"There is no memory {entry_id}. {self._ids_told()}")
        return Entry(*found)

    def entries(self) -> list[Entry]:
        """All memories, by id."""
        return [Entry(*row) for row in self._db.execute("SELECT id, text FROM entries ORDER BY id")]

    def search(self, query: str, *, k: int) -> list[Entry]:
        """At most `k` memories that answer `query`, best first, ties by id.

        Any text is a query; one without a word finds nothing. With words, a memory must share one;
        with an encoder, every memory has a place.
        """
        if k < 1 or not _WORD.search(query):
            return []
        return self._nearest(query, k) if self._encoder else self._matching(query, k)

    def related(self, query: str, *, k: int) -> list[Entry]:
        """`k` memories where there are as many: what `search` finds, filled up with the newest."""
        found = self.search(query, k=k)
        known = {entry.id for entry in found}
        rest = [entry for entry in reversed(self.entries()) if entry.id not in known]
        return [*found, *rest[: k - len(found)]]

    def snapshot(self) -> bytes:
        """The whole state, ids given out included."""
        return self._db.serialize()

    def restore(self, state: bytes) -> None:
        """Go back to a snapshot: the same memories, and the same next id as then."""
        fresh = _connect()  # FTS5 would take what the old connection has cached for the new content
        fresh.deserialize(state)
        self._db.close()
        self._db = fresh

    def fork(self, n: int) -> list[MemoryBank]:
        """`n` independent copies of the present state."""
        state = self.snapshot()
        copies = [MemoryBank(bounds=self.bounds, encoder=self._encoder) for _ in range(n)]
        for copy in copies:
            copy.restore(state)
        return copies

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self._db.close()

    def _matching(self, query: str, k: int) -> list[Entry]:
        rows = self._db.execute(
            "SELECT rowid, text FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid LIMIT ?",
            (quoted(query), k),
        )
        return [Entry(*row) for row in rows]

    def _nearest(self, query: str, k: int) -> list[Entry]:
        assert self._encoder is not None
        rows: Sequence[tuple[int, str, bytes]] = self._db.execute(
            "SELECT id, text, vector FROM entries"
        ).fetchall()
        scores = cosines(self._encoder([query])[0], [row[2] for row in rows])
        order = sorted(range(len(rows)), key=lambda i: (-scores[i], rows[i][0]))
        return [Entry(*rows[i][:2]) for i in order[:k]]

    def _vector(self, text: str) -> bytes | None:
        return packed(self._encoder([text])[0]) if self._encoder else None

    def _checked(self, text: str) -> str:
        cleaned = cleaned_text(text)
        if not cleaned:
            raise ToolError("There is no text to remember.")
        if len(cleaned) > self.bounds.chars:
            told = f"The text has {len(cleaned)} characters"
            raise ToolError(f"{told}; a memory holds {self.bounds.chars}: say it shorter.")
        return cleaned

    def _ids_told(self) -> str:
        ids = [str(entry.id) for entry in self.entries()]
        if not ids:
            return "The memory is empty: add first."
        shown = ", ".join(ids[:20]) + (", ..." if len(ids) > 20 else "")
        return f"There are: {shown}."


def _connect() -> sqlite3.Connection:
    """An own database in memory; one episode at a time uses it, from whichever thread plays it."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def cleaned_text(text: str) -> str:
    """`text` as SQLite and every tokenizer can hold it: one line, no NUL, no lone surrogates."""
    encodable = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")
    return " ".join(encodable.split())


def quoted(query: str) -> str:
    """The FTS5 expression that finds any word of `query`; operators in it are words like others."""
    words = _WORD.findall(cleaned_text(query))[:MAX_TERMS]
    return " OR ".join(f'"{word}"' for word in words)


__all__ = ["Bounds", "Entry", "MemoryBank", "cleaned_text", "quoted"]
