"""Rows that bring a table or a database: what `env=tables` and `env=sql_qa` read as metadata.

A table is text (CSV, tabs, pipes), `{"header": [...], "rows": [[...]]}` as WikiTableQuestions has it, a
list of rows whose first is the header, or a list of objects. A database is statements that make it,
or the path of an SQLite file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from agentrl.data.rows import Row
from agentrl.errors import UserError
from agentrl.types import JsonValue

QUERIES = ("query", "sql", "SQL")
"""Columns in which data sets keep the gold query."""


def table_in(row: Row) -> dict[str, JsonValue]:
    """Metadata `table`: its header and rows of text. Raises UserError that names the row."""
    value = row.values.get("table")
    if isinstance(value, str) and value.strip():
        return {"table": value}
    if isinstance(value, Mapping):
        found = cast(Mapping[str, JsonValue], value)
        header, body = _list(found.get("header")), _list(found.get("rows"))
    else:
        header, body = _headed(_list(value))
    if not header:
        raise UserError(
            f'{row.where}: table is neither text, nor {{"header": [...], "rows": [[...]]}}, nor a '
            "list of rows; write one of these"
        )
    rows: list[JsonValue] = [[_text(cell) for cell in _list(line)] for line in body]
    return {"table": {"header": [_text(name) for name in header], "rows": rows}}


def _headed(lines: Sequence[JsonValue]) -> tuple[Sequence[JsonValue], Sequence[JsonValue]]:
    """Header and rows of a list of rows, or of a list of objects."""
    objects = [cast(Mapping[str, JsonValue], x) for x in lines if isinstance(x, Mapping)]
    if objects and len(objects) == len(lines):
        names = list(dict.fromkeys(name for one in objects for name in one))
        return names, [[one.get(name) for name in names] for one in objects]
    return (_list(lines[0]), lines[1:]) if lines else ((), ())


def database_in(row: Row) -> dict[str, JsonValue]:
    """Metadata `database` or `database_path`, and `ordered`. Raises UserError that names the row."""
    found: dict[str, JsonValue] = {}
    for name in ("database", "twin", "database_path"):
        value = row.values.get(name)
        if isinstance(value, str) and value.strip():
            found[name] = value
    if not {"database", "database_path"} & set(found):
        raise UserError(
            f"{row.where}: neither database (statements that make it) nor database_path (an SQLite "
            "file) is text; fill one"
        )
    query = next((str(row.values[name]) for name in QUERIES if name in row.values), "")
    ordered = row.values.get("ordered")
    found["ordered"] = "order by" in query.lower() if ordered is None else ordered is True
    return found


def _list(value: JsonValue) -> Sequence[JsonValue]:
    return cast(Sequence[JsonValue], value) if isinstance(value, list | tuple) else ()


def _text(value: JsonValue) -> str:
    return "" if value is None else str(value)


__all__ = ["QUERIES", "database_in", "table_in"]
