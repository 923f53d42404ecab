"""The far side of the SQL tool: read-only SQLite databases in a sandbox session, held in memory.

Sent as source (`inside.py`); the standard library alone. Everything goes in and out as plain text.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from typing import Any

MAX_JSON = 20_000
"""Characters of one answer's rows; what is beyond is left out and said."""
_HEAP_BYTES = 256 << 20
_STEPS = 20_000
"""Instructions of SQLite's machine between two looks at the clock."""
_MAY = {20, 21, 31, 33}  # READ, SELECT, FUNCTION, RECURSIVE
_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}

_databases: dict[str, sqlite3.Connection] = {}
_pieces: dict[str, list[bytes]] = {}
_denied: list[str] = []


def _authorized(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action not in _MAY:
        _denied.append("PRAGMA" if action == sqlite3.SQLITE_PRAGMA else "a write")
        return sqlite3.SQLITE_DENY
    if action == 31 and (second or "").lower() in _FUNCTIONS:
        _denied.append(f"the function {second}")
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _connected() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(f"PRAGMA hard_heap_limit = {_HEAP_BYTES}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _guarded(name: str, connection: sqlite3.Connection) -> str:
    """Lock a filled database up; nothing can be undone through SQL."""
    connection.execute("PRAGMA query_only = ON")
    for limit, size in (
        (sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 20_000),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100),
        (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    ):
        connection.setlimit(limit, size)
    connection.set_authorizer(_authorized)
    _databases[name] = connection
    return "{}"


def load_script(name: str, script: str) -> str:
    """Make a database by running statements."""
    connection = _connected()
    try:
        connection.executescript(script)
    except (sqlite3.Error, UnicodeError) as error:
        return json.dumps({"error": str(error)})
    return _guarded(name, connection)


def load_piece(name: str, piece: str, last: bool) -> str:
    """Take a piece of a database file in base64; at the last one open the whole."""
    _pieces.setdefault(name, []).append(base64.b64decode(piece))
    if not last:
        return "{}"
    connection = _connected()
    try:
        connection.deserialize(b"".join(_pieces.pop(name)))
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return json.dumps({"error": str(error)})
    return _guarded(name, connection)


def query(name: str, sql: str, max_rows: int, max_cell: int, seconds: float) -> str:
    """JSON of `columns`, `rows` and `more`; or `error` (and `refused`, `slow`); or `missing`."""
    connection = _databases.get(name)
    if connection is None:
        return json.dumps({"missing": True})
    _denied.clear()
    ends = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
    try:
        cursor = connection.execute(sql)
        if cursor.description is None:
            return json.dumps({"error": "it returns no rows", "refused": _verb(sql)})
        columns = [str(column[0])[:max_cell] for column in cursor.description]
        return _rows(cursor, columns, max_rows, max_cell)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
        told: dict[str, Any] = {"error": str(error) or type(error).__name__}
        if _denied:
            told["refused"] = _verb(sql) if _verb(sql) not in ("SELECT", "WITH") else _denied[0]
        if time.monotonic() > ends:
            told["slow"] = True
        elif "no such" in told["error"]:
            told["schema"] = _schema(connection)
        return json.dumps(told)
    finally:
        connection.set_progress_handler(None, 0)


def _verb(sql: str) -> str:
    """The first word of a statement, as it was meant: SQLite asks about the steps behind it."""
    word = sql.split(None, 1)[0].upper() if sql.strip() else ""
    return word[:20] if word.isalpha() else "this"


def _rows(cursor: sqlite3.Cursor, columns: list[str], max_rows: int, max_cell: int) -> str:
    rows: list[list[Any]] = []
    size = 0
    for row in cursor:
        shown = [_cell(value, max_cell) for value in row]
        size += len(json.dumps(shown))
        if len(rows) == max_rows or size > MAX_JSON:
            cursor.close()
            return json.dumps({"columns": columns, "rows": rows, "more": True})
        rows.append(shown)
    return json.dumps({"columns": columns, "rows": rows, "more": False})


def _cell(value: Any, max_cell: int) -> Any:
    """A value as JSON says it; text and blobs cut to `max_cell` characters."""
    if isinstance(value, str):
        return value if len(value) <= max_cell else value[:max_cell] + "..."
    if isinstance(value, bytes):
        return {"blob": value[:max_cell].hex()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"float": repr(value)}
    return value


def _schema(connection: sqlite3.Connection) -> str:
    """Tables and their columns, for who asks for one that does not exist."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    found: list[str] = []
    for (name,) in names.fetchall()[:20]:
        quoted = str(name).replace('"', '""')
        columns = connection.execute(f'SELECT * FROM "{quoted}" LIMIT 0').description
        found.append(f"{name}({', '.join(str(column[0]) for column in columns)})")
    return "; ".join(found)[:600]
