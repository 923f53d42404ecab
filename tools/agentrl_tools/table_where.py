"""Conditions on a table's rows: `Year >= 2010 and City = "Oslo"`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from agentrl.errors import ToolError
from agentrl_tools.table_data import Table, folded, number

MAX_CHARS = 1000
MAX_CONDITIONS = 16
HOW = 'Write conditions as: Column > 10 and Other = "text" (=, !=, <, <=, >, >=, contains).'
_ORDERED: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_OPERATOR = re.compile(r"\s*(==|!=|<>|<=|>=|=|<|>|contains\b)\s*", re.IGNORECASE)
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column's cells with a value."""

    column: int
    operator: str
    value: str

    def holds(self, cell: str) -> bool:
        """Whether a cell fulfils it; numbers compare as numbers, an unordered pair is False."""
        mine, theirs = number(cell), number(self.value)
        if self.operator == "contains":
            return folded(self.value) in folded(cell)
        if self.operator in ("=", "!="):
            both = mine is not None and theirs is not None
            same = mine == theirs if both else folded(cell) == folded(self.value)
            return same is (self.operator == "=")
        return mine is not None and theirs is not None and _ORDERED[self.operator](mine, theirs)


def conditions(table: Table, where: str) -> list[Condition]:
    """The conditions of `where`, all of which must hold; none for blank text.

    Column names stand bare or quoted and may hold blanks. Raises ToolError.
    """
    if len(where) > MAX_CHARS:
        raise ToolError(f"`where` is longer than {MAX_CHARS} characters. {HOW}")
    found: list[Condition] = []
    at = len(where) - len(where.lstrip())
    while at < len(where):
        if len(found) == MAX_CONDITIONS:
            raise ToolError(f"`where` may hold {MAX_CONDITIONS} conditions at most.")
        condition, at = _condition(table, where, at)
        found.append(condition)
    return found


def chosen(table: Table, where: str) -> list[int]:
    """Indices of the rows for which `where` holds. Raises ToolError."""
    wanted = conditions(table, where)
    return [i for i, row in enumerate(table.rows) if all(c.holds(row[c.column]) for c in wanted)]


def _condition(table: Table, where: str, at: int) -> tuple[Condition, int]:
    operator = _OPERATOR.search(where, at)
    quoted = _QUOTED.match(where, at)
    if quoted is not None:  # an operator inside the quotes is part of the name
        operator = _OPERATOR.match(where, quoted.end())
    if operator is None:
        raise ToolError(f"There is no comparison in {where[at : at + 60]!r}. {HOW}")
    name = _unquoted(where[at : operator.start()].strip())
    column = table.column(name)
    value, end = _value(table, where, operator.end())
    spelled = operator[1].lower()
    made = {"==": "=", "<>": "!="}.get(spelled, spelled)
    if made in _ORDERED and number(value) is None:
        raise ToolError(f"{made} compares numbers, and {value[:60]!r} is none. {HOW}")
    return Condition(column, made, value), end


def _value(table: Table, where: str, at: int) -> tuple[str, int]:
    """The value at `at` and where the next condition begins."""
    quoted = _QUOTED.match(where, at)
    if quoted is not None:
        rest = _AND.match(where, quoted.end())
        if rest is None and where[quoted.end() :].strip():
            raise ToolError(f"After {quoted[0][:60]!r} comes no `and`. {HOW}")
        return _unquoted(quoted[0]), rest.end() if rest else len(where)
    for joint in _AND.finditer(where, at):
        # `Bread and butter` is one value: only an `and` before a column ends one.
        if _begins(table, where, joint.end()):
            return _nonempty(where[at : joint.start()]), joint.end()
    return _nonempty(where[at:]), len(where)


def _begins(table: Table, where: str, at: int) -> bool:
    """Whether a column's name and an operator stand at `at`, or something quoted does."""
    if _QUOTED.match(where, at):
        return True
    operator = _OPERATOR.search(where, at)
    if operator is None:
        return False
    name = folded(where[at : operator.start()])
    return any(folded(column) == name for column in table.columns)


def _nonempty(text: str) -> str:
    if not text.strip():
        raise ToolError(f"A comparison has no value. {HOW}")
    return text.strip()


def _unquoted(text: str) -> str:
    match = _QUOTED.fullmatch(text)
    return text if match is None else next(g for g in match.groups() if g is not None)
