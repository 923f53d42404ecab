"""The persistent learning memory of ATLAS (arXiv:2511.01093): lessons in one SQLite file.

It outlives episodes and runs, and several processes may use it at once: every call opens the file,
takes SQLite's own lock for as long as it writes, and closes it. Under a key only the newest lesson is
found; the older ones are its history.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, final

from agentrl.errors import ToolError, UserError, WorldFault
from agentrl.types import JsonValue
from agentrl_tools.memory.bank import cleaned_text, quoted
from agentrl_tools.memory.distil import SUCCESS, Playbook, pamphlet, playbook

HISTORY = 10
"""Versions kept of the lesson under one key."""

BUSY_S = 20.0
"""How long a call waits for another process's write."""

KEY_CHARS = 200

_TABLES = """
CREATE TABLE IF NOT EXISTS lessons (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, student TEXT NOT NULL,
    teacher TEXT NOT NULL, reward REAL, metadata TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS lessons_by_key ON lessons (key, id);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(key, student, tokenize='unicode61');
"""

_COLUMNS = "lessons.key, lessons.student, teacher, reward, metadata, hash"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was distilled from episodes of one kind."""

    key: str
    """What it is about: a task, a family, a tool."""
    student: str
    """The principle, for whoever acts."""
    teacher: str = ""
    """The principle, for whoever supervises."""
    reward: float | None = None
    """Of the episode it was drawn from; None when nobody judged it."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    hash: str = ""
    """SHA-256 of the student's text as a playbook."""

    @property
    def success(self) -> bool | None:
        """Whether that episode was a success; None when nobody judged it."""
        return None if self.reward is None else self.reward >= SUCCESS


@final
class LearningMemory:
    """Lessons that persist in a file."""

    def __init__(
        self, path: str | Path, *, update_enabled: bool = False, history_limit: int = HISTORY
    ) -> None:
        """Use the file at `path`; nothing is written, not even the file, unless `update_enabled`.

        Off by default because what an episode reads would depend on which others ended before it:
        deterministic training reads a frozen memory.
        """
        if history_limit < 1:
            raise UserError("history_limit is at least 1")
        self.path = Path(path).expanduser()
        self.update_enabled = update_enabled
        self.history_limit = history_limit

    def record(self, lesson: Lesson) -> Lesson:
        """Keep a lesson as the newest under its key; the same text again changes nothing.

        Returns it tidied and with its hash. Raises ToolError on a text or key that is empty or too
        long, and when updates are off; WorldFault when the file stays locked.
        """
        if not self.update_enabled:
            raise ToolError("This memory is read-only: lessons can be recalled, not added.")
        made = _tidied(lesson)
        row = (made.key, made.student, made.teacher, made.reward, _dumped(made), made.hash)
        with self._open(write=True) as db:
            newest = db.execute(
                "SELECT hash, teacher FROM lessons WHERE key = ? ORDER BY id DESC LIMIT 1", row[:1]
            ).fetchone()
            if newest != (made.hash, made.teacher):
                self._insert(db, row)
        return made

    def _insert(self, db: sqlite3.Connection, row: tuple[object, ...]) -> None:
        key = row[0]
        old = db.execute("SELECT id FROM lessons WHERE key = ? ORDER BY id DESC", (key,)).fetchall()
        placed = db.execute(
            "INSERT INTO lessons (key, student, teacher, reward, metadata, hash) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )
        db.executemany("DELETE FROM words WHERE rowid = ?", old)
        db.executemany("DELETE FROM lessons WHERE id = ?", old[self.history_limit - 1 :])
        db.execute(
            "INSERT INTO words (rowid, key, student) VALUES (?, ?, ?)", (placed.lastrowid, *row[:2])
        )

    def search(self, query: str, *, k: int) -> list[Lesson]:
        """At most `k` newest lessons that share words with `query`, best first, ties by age."""
        expression = quoted(query)
        if not expression or k < 1 or not self.path.exists():
            return []
        with self._open() as db:
            if not _made(db):
                return []
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM words JOIN lessons ON lessons.id = words.rowid "
                "WHERE words MATCH ? ORDER BY bm25(words), words.rowid LIMIT ?",
                (expression, k),
            ).fetchall()
        return [_lesson(row) for row in rows]

    def history(self, key: str) -> list[Lesson]:
        """All kept versions of a key's lesson, oldest first."""
        if not self.path.exists():
            return []
        with self._open() as db:
            if not _made(db):
                return []
            query = f"SELECT {_COLUMNS} FROM lessons WHERE key = ? ORDER BY id"
            rows = db.execute(query, (cleaned_text(key),)).fetchall()
        return [_lesson(row) for row in rows]

    def playbook(self, query: str, *, k: int = 5) -> Playbook:
        """The lessons for a task, best first."""
        return playbook([lesson.student for lesson in self.search(query, k=k)])

    @contextmanager
    def _open(self, *, write: bool = False) -> Generator[sqlite3.Connection]:
        """A connection for one call; a writer holds the file's lock until it has committed."""
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)) as db:
                if not write:
                    yield db
                    return
                db.execute("BEGIN IMMEDIATE")
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                yield db
                db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise WorldFault(f"the learning memory {self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} is no learning memory ({error}); give another path"
            ) from error


def _made(db: sqlite3.Connection) -> bool:
    """False while the first writer has not committed yet."""
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone())


def _tidied(lesson: Lesson) -> Lesson:
    key = cleaned_text(lesson.key)
    if not key or len(key) > KEY_CHARS:
        raise ToolError(f"A lesson's key has 1 to {KEY_CHARS} characters.")
    student = pamphlet(lesson.student)
    teacher = pamphlet(lesson.teacher) if lesson.teacher.strip() else ""
    named = playbook([student]).hash
    return Lesson(key, student, teacher, lesson.reward, lesson.metadata, named)


def _dumped(lesson: Lesson) -> str:
    return json.dumps(dict(lesson.metadata), ensure_ascii=True)


def _lesson(row: tuple[str, str, str, float | None, str, str]) -> Lesson:
    key, student, teacher, reward, metadata, named = row
    loaded = cast("Mapping[str, JsonValue]", json.loads(metadata))
    return Lesson(key, student, teacher, reward, loaded, named)


__all__ = ["BUSY_S", "HISTORY", "LearningMemory", "Lesson"]
