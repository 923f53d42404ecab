"""The table tool, after TaTToo (arXiv:2510.06217): look-up by name and exact arithmetic over cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Literal, cast, final

from agentrl.context import Context
from agentrl.errors import ToolError
from agentrl.types import JsonValue, ToolResult
from agentrl_tools.clip import clip_middle
from agentrl_tools.exact import calculate, written
from agentrl_tools.table_data import Table, number, read_table
from agentrl_tools.table_where import chosen

_REFERENCE = re.compile(r"\[([^\[\]]*)\]")
SHOWN_ROWS = 20
"""Rows of one answer."""
MAX_REFERENCES = 64
"""Cells in one expression."""

Aggregate = Literal["count", "sum", "mean", "median", "min", "max", "argmin", "argmax"]


def _median(values: Sequence[Fraction]) -> Fraction:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


_AGGREGATES: Mapping[str, Callable[[Sequence[Fraction]], Fraction]] = {
    "sum": lambda values: sum(values, Fraction(0)),
    "mean": lambda values: sum(values, Fraction(0)) / len(values),
    "median": _median,
    "min": min,
    "max": max,
}
_ARGUMENTS: Mapping[str, str] = {
    "operation": "What to do: columns (names of all columns), cell, row, column, filter (rows where), "
    "count, sum, mean, median, min, max, argmin, argmax (row of the extreme), or compute.",
    "column": "Name of a column; for filter one or more, separated by ; (default: all).",
    "row": "Name of a row (its first cell), or #3 for the third.",
    "where": 'Conditions that choose rows, such as: Year >= 2010 and City = "Oslo".',
    "expression": "For compute: arithmetic over cells written as [row, column], such as "
    "[Ada, Age] - [Bob, Age].",
}
OPERATIONS = (
    "columns", "cell", "row", "column", "filter", "count", *_AGGREGATES, "argmin", "argmax", "compute",
)  # fmt: skip


@final
class TableTool:
    """Looks cells, rows and columns up by name, filters, aggregates and computes, all exactly."""

    name = "table"
    parallel = True
    uses_sandbox = False

    def __init__(self, *, table: Table | str | None = None, max_chars: int = 1000) -> None:
        """`table`: the table or its text (`read_table`); an environment gives another at `reset`.
        `max_chars`: budget of one answer.

        Raises UserError on a table that cannot be read.
        """
        self._table = read_table(table) if isinstance(table, str) else table
        self._max_chars = max_chars

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return (
            "Reads the table of the task: looks up cells, rows and columns by name, filters rows, "
            "aggregates a column and computes over cells. Numbers are exact."
        )

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """`operation`, and what it needs of `column`, `row`, `where`, `expression`."""
        properties: dict[str, dict[str, JsonValue]] = {
            name: {"type": "string", "description": what} for name, what in _ARGUMENTS.items()
        }
        properties["operation"]["enum"] = list(OPERATIONS)
        made: object = {"type": "object", "properties": properties, "required": ["operation"]}
        return cast(Mapping[str, JsonValue], made)

    def give(self, table: Table) -> None:
        """The table of the next episode."""
        self._table = table

    async def open(self, ctx: Context) -> None:
        """Nothing to open."""

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """One operation. Raises ToolError that says what is missing or unknown."""
        if self._table is None:
            raise ToolError("There is no table in this task.")
        clipped = clip_middle(look_up(self._table, arguments), self._max_chars)
        return ToolResult(call_id="", content=clipped.text, truncated=clipped.truncated)

    async def fork(self, n: int) -> list[TableTool]:
        """Copies on the same table, which nothing changes."""
        return [TableTool(table=self._table, max_chars=self._max_chars) for _ in range(n)]

    async def close(self) -> None:
        """Nothing to close."""


def look_up(table: Table, arguments: Mapping[str, JsonValue]) -> str:
    """What the tool says to a call with these arguments. Raises ToolError."""
    return _Ask(table, {name: str(value) for name, value in arguments.items()}).answer()


class _Ask:
    """One call's arguments over one table."""

    def __init__(self, table: Table, given: Mapping[str, str]) -> None:
        self.table = table
        self.given = given

    def answer(self) -> str:
        """The operation's text. Raises ToolError."""
        operation = self.given["operation"].strip().lower()
        match operation:
            case "columns":
                return f"{', '.join(self.table.columns)} ({len(self.table.rows)} rows)"
            case "cell":
                return self.table.rows[self._row()][self._column()]
            case "row":
                return self._row_text()
            case "column":
                return self._listed([self._column()], named=True)
            case "filter":
                return self._listed(self._columns(), named=False)
            case "count":
                return str(len(self._rows()))
            case "compute":
                return written(calculate(self._substituted()))
            case "argmin" | "argmax":
                return self._extreme(operation)
            case _ if operation in _AGGREGATES:
                return self._aggregate(operation)
            case _:
                raise ToolError(
                    f"There is no operation {operation[:40]!r}; choose among {', '.join(OPERATIONS)}."
                )

    def _needed(self, name: str) -> str:
        given = self.given.get(name, "")
        if not given.strip():
            raise ToolError(f"{self.given['operation']} needs the argument {name!r}.")
        return given

    def _row(self) -> int:
        return self.table.row(self._needed("row"))

    def _column(self) -> int:
        return self.table.column(self._needed("column"))

    def _columns(self) -> list[int]:
        names = [name for name in self.given.get("column", "").split(";") if name.strip()]
        return [self.table.column(name) for name in names] or list(range(len(self.table.columns)))

    def _rows(self) -> list[int]:
        return chosen(self.table, self.given.get("where", ""))

    def _row_text(self) -> str:
        cells = zip(self.table.columns, self.table.rows[self._row()], strict=True)
        return "; ".join(f"{column}: {cell}" for column, cell in cells)

    def _listed(self, columns: Sequence[int], *, named: bool) -> str:
        """Cells of the chosen rows; `named` puts each row's name before its cell."""
        rows = self._rows()
        if not rows:
            return "(no rows)"
        lines: list[str] = []
        if not named:
            lines.append(" | ".join(self.table.columns[c] for c in columns))
        for i in rows[:SHOWN_ROWS]:
            cells = " | ".join(self.table.rows[i][c] for c in columns)
            lines.append(f"{self.table.rows[i][0]}: {cells}" if named else cells)
        if len(rows) > SHOWN_ROWS:
            lines.append(f"(the first {SHOWN_ROWS} of {len(rows)} rows; narrow `where`)")
        return "\n".join(lines)

    def _values(self) -> list[tuple[int, Fraction]]:
        """Row and number of every chosen cell that is not empty. Raises ToolError on text."""
        column = self._column()
        found: list[tuple[int, Fraction]] = []
        for i in self._rows():
            cell = self.table.rows[i][column]
            value = number(cell)
            if value is not None:
                found.append((i, value))
            elif cell.strip():
                raise ToolError(
                    f"{self.table.columns[column]} of {self.table.rows[i][0]} is {cell[:60]!r}, no "
                    "number; leave such rows out with `where`."
                )
        if not found:
            raise ToolError(f"No row has a number in {self.table.columns[column]} there.")
        return found

    def _aggregate(self, operation: str) -> str:
        return written(_AGGREGATES[operation]([value for _, value in self._values()]))

    def _extreme(self, operation: str) -> str:
        values = self._values()
        best = (max if operation == "argmax" else min)(value for _, value in values)
        names = [self.table.rows[i][0] for i, value in values if value == best]
        return f"{', '.join(names[:SHOWN_ROWS])} ({written(best)})"

    def _substituted(self) -> str:
        """The expression with numbers in the place of its cells."""
        expression = self._needed("expression")
        if expression.count("[") > MAX_REFERENCES:
            raise ToolError(f"An expression may name {MAX_REFERENCES} cells at most.")
        return _REFERENCE.sub(self._number_of, expression)

    def _number_of(self, reference: re.Match[str]) -> str:
        row, comma, column = reference[1].rpartition(",")
        if not comma:
            raise ToolError(f"Write a cell as [row, column], not {reference[0][:60]!r}.")
        cell = self.table.rows[self.table.row(row)][self.table.column(column)]
        value = number(cell)
        if value is None:
            raise ToolError(f"The cell {reference[0][:60]!r} is {cell[:60]!r}, no number.")
        return f"({value.numerator}/{value.denominator})"
