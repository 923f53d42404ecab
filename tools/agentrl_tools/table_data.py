"""A table of text cells: read from CSV, TSV or pipes, addressed by name, numbers read exactly."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cached_property
from typing import NoReturn, cast

from agentrl.errors import ToolError, UserError
from agentrl.types import JsonValue

MAX_CELLS = 50_000
"""Largest table that is taken."""
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,300})(?:\.\d{1,300})?|[-+]?\.\d{1,300}")
_SIGNS = "$€£¥%"


def number(text: str) -> Fraction | None:
    """The exact number a cell writes (`1,250.5`, `$3`, `40 %`: the sign is dropped), or None."""
    bare = text.strip().replace("−", "-")
    sign, bare = (bare[:1], bare[1:]) if bare[:1] in ("-", "+") else ("", bare)
    bare = bare.strip(_SIGNS + " ")
    if not _NUMBER.fullmatch(sign + bare):
        return None
    return Fraction((sign + bare).replace(",", ""))


def folded(name: str) -> str:
    """A name as it is compared: case and runs of blanks do not count."""
    return " ".join(name.casefold().split())


@dataclass(frozen=True)
class Table:
    """Named columns, rows of text; a row is named by its first cell."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        names = [folded(column) for column in self.columns]
        if not names or not all(names) or len(set(names)) != len(names):
            raise UserError("a table needs columns, each with a name of its own")
        ragged = next((i for i, row in enumerate(self.rows, 1) if len(row) != len(names)), None)
        if ragged is not None:
            raise UserError(f"row {ragged} of the table has not {len(names)} cells; fill it up")
        if len(self.rows) * len(names) > MAX_CELLS:
            raise UserError(
                f"a table may have {MAX_CELLS:,} cells at most; use sql for larger ones"
            )

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {folded(name): i for i, name in enumerate(self.columns)}

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            found.setdefault(folded(row[0]), []).append(i)
        return found

    def column(self, name: str) -> int:
        """Index of a column. Raises ToolError that names the nearest one."""
        found = self._columns.get(folded(name))
        if found is None:
            _unknown("column", name, self.columns)
        return found

    def row(self, name: str) -> int:
        """Index of a row by its name, or by its number as `#3`, counted from 1.

        Raises ToolError when there is none, or more than one of that name.
        """
        if name.strip().startswith("#") and name.strip()[1:].isdecimal():
            index = int(name.strip()[1:][:9])
            if not 1 <= index <= len(self.rows):
                raise ToolError(
                    f"There is no row {name.strip()[:12]}; rows are #1 to #{len(self.rows)}."
                )
            return index - 1
        found = self._rows.get(folded(name), [])
        if not found:
            _unknown("row", name, [row[0] for row in self.rows])
        if len(found) > 1:
            which = ", ".join(f"#{i + 1}" for i in found[:8])
            raise ToolError(
                f"{len(found)} rows are named {name!r}: {which}. Name one by its number."
            )
        return found[0]

    def text(self, separator: str = " | ") -> str:
        """Header and rows, one line each."""
        return "\n".join(separator.join(row) for row in (self.columns, *self.rows))


def _unknown(kind: str, name: str, known: Sequence[str]) -> NoReturn:
    """Raise ToolError with the nearest name, or the first ones."""
    by_fold = {folded(k): k for k in known}
    near = get_close_matches(folded(name[:80]), list(by_fold)[:1000], n=1, cutoff=0.6)
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    hint = f"Did you mean {by_fold[near[0]]!r}?" if near else f"The {kind}s: {shown or 'none'}."
    raise ToolError(f"There is no {kind} {name[:80]!r}. {hint}")


def read_table(text: str) -> Table:
    """A table from text whose first line names the columns.

    Separated by `|` (Markdown's rule line is skipped), tabs, or as CSV. Raises UserError.
    """
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if not lines:
        raise UserError("the table's text is empty; its first line names the columns")
    if "|" in lines[0]:
        cells = [[cell.strip() for cell in _unframed(line).split("|")] for line in lines]
        cells = [row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    else:
        delimiter = "\t" if "\t" in lines[0] else ","
        try:
            cells = [
                [cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)
            ]
        except csv.Error as error:
            raise UserError(f"the table cannot be read as CSV ({error}); quote its cells") from None
    return Table(tuple(cells[0]), tuple(tuple(row) for row in cells[1:]))


def table_of(value: JsonValue) -> Table:
    """A table from text, or from `{"header": [...], "rows": [[...]]}`.

    Published tables are not tidy: a column's name that is missing or used twice gets its number, short
    rows are filled up and long ones cut. Raises UserError.
    """
    if isinstance(value, str):
        return read_table(value)
    empty: Mapping[str, JsonValue] = {}
    found = cast(Mapping[str, JsonValue], value) if isinstance(value, Mapping) else empty
    header, body = found.get("header"), found.get("rows")
    if not isinstance(header, list | tuple) or not isinstance(body, list | tuple) or not header:
        raise UserError('a table is text or {"header": [...], "rows": [[...]]}; write it so')
    names: list[str] = []
    for i, given in enumerate(cast(Sequence[JsonValue], header), 1):
        name = " ".join(str(given).split())
        taken = folded(name) in map(folded, names)
        names.append(f"{name} ({i})" if name and taken else name or f"column {i}")
    rows = [_row(line, len(names)) for line in cast(Sequence[JsonValue], body)]
    return Table(tuple(names), tuple(rows))


def _row(line: JsonValue, width: int) -> tuple[str, ...]:
    cells = cast(Sequence[JsonValue], line) if isinstance(line, list | tuple) else [line]
    texts = [" ".join(str(cell).split()) for cell in cells]
    return (*texts[:width], *[""] * (width - len(texts)))


def _unframed(line: str) -> str:
    line = line.strip()
    framed = line.startswith("|") and line.endswith("|") and len(line) > 1
    return line[1:-1] if framed else line
