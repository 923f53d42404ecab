"""Questions over a table: what is asked, the exact answer, and how the tools find it.

Each kind takes a fixed number of steps: look-ups, filters, aggregates, differences, extremes. Answers
are worked out here from the cells, with fractions, by other code than the tool's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Literal, TypeAlias

from agentrl.types import JsonValue
from agentrl_envs.tables.world import World
from agentrl_tools.table_data import folded, number

Call: TypeAlias = dict[str, JsonValue]
AnswerKind: TypeAlias = Literal["number", "rounded", "name"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its answer."""

    kind: str
    steps: int
    text: str
    answer: str
    answer_kind: AnswerKind
    """`number`: exact; `rounded`: to two decimals; `name`: a cell of the first column."""
    calls: tuple[Call, ...]
    """Calls of the table tool that lead to the answer."""
    code: str
    """Python over `rows` and `number`, whose value is the answer."""


class Asker:
    """Draws questions about one table."""

    def __init__(self, rng: Random, world: World) -> None:
        self.rng = rng
        self.world = world
        self.columns = {name: i for i, name in enumerate(world.table.columns)}
        self.key = world.table.columns[0]
        self.rows = world.table.rows

    def value(self, row: int, column: str) -> Fraction:
        """The number in a cell."""
        return Fraction(self.rows[row][self.columns[column]].replace(",", ""))

    def group(self, *, of: int) -> tuple[str, str, list[int]] | None:
        """A category, one of its values, and its rows, which are `of` at least; None without one."""
        category = self.rng.choice(self.world.categories)
        index = self.columns[category]
        values = sorted({row[index] for row in self.rows})
        self.rng.shuffle(values)
        for value in values:
            found = [i for i, row in enumerate(self.rows) if row[index] == value]
            if len(found) >= of:
                return category, value, found
        return None

    def number(self) -> str:
        """A column of numbers."""
        return self.rng.choice(self.world.numbers)

    def name(self, row: int) -> str:
        """A row's name."""
        return self.rows[row][0]


def _decimal(value: Fraction) -> str:
    """An exact decimal; every sum and difference of cells is one."""
    scaled = value * 100
    assert scaled.denominator == 1, value
    sign, digits = ("-" if scaled < 0 else ""), str(abs(scaled.numerator)).zfill(3)
    text = f"{sign}{digits[:-2]}.{digits[-2:]}"
    return text.rstrip("0").rstrip(".")


def rounded(value: Fraction) -> str:
    """To two decimals, halves to the even one."""
    return _decimal(Fraction(round(value * 100), 100))


def _cell(row: str, column: str) -> Call:
    return {"operation": "cell", "row": row, "column": column}


def _lookup(a: Asker) -> Question | None:
    row, column = a.rng.randrange(len(a.rows)), a.number()
    name = a.name(row)
    return Question(
        "lookup", 1, f"What is the value of {column} for {name}?", _decimal(a.value(row, column)),
        "number", (_cell(name, column),),
        f"next(number(r[{column!r}]) for r in rows if r[{a.key!r}] == {name!r})",
    )  # fmt: skip


def _difference(a: Asker) -> Question | None:
    first, second = a.rng.sample(range(len(a.rows)), 2)
    column = a.number()
    x, y = a.name(first), a.name(second)
    gap = a.value(first, column) - a.value(second, column)
    return Question(
        "difference", 2,
        f"What is {column} of {x} minus {column} of {y}? Give a negative number if {y}'s is larger.",
        _decimal(gap), "number",
        ({"operation": "compute", "expression": f"[{x}, {column}] - [{y}, {column}]"},),
        f"number(by[{x!r}][{column!r}]) - number(by[{y!r}][{column!r}])",
    )  # fmt: skip


def _argmax(a: Asker) -> Question | None:
    column = a.number()
    most = a.rng.random() < 0.5
    best = (max if most else min)(range(len(a.rows)), key=lambda i: a.value(i, column))
    word, operation = ("largest", "argmax") if most else ("smallest", "argmin")
    return Question(
        "argmax", 1, f"Which {a.key} has the {word} {column}?", a.name(best), "name",
        ({"operation": operation, "column": column},),
        f"{'max' if most else 'min'}(rows, key=lambda r: number(r[{column!r}]))[{a.key!r}]",
    )  # fmt: skip


def _count(a: Asker) -> Question | None:
    column = a.number()
    bound = a.value(a.rng.randrange(len(a.rows)), column)
    found = sum(a.value(i, column) > bound for i in range(len(a.rows)))
    limit = _decimal(bound)
    return Question(
        "count", 1, f"Of how many {a.world.theme.plural} is {column} above {limit}?", str(found),
        "number", ({"operation": "count", "where": f"{column} > {limit}"},),
        f"sum(number(r[{column!r}]) > number({limit!r}) for r in rows)",
    )  # fmt: skip


def _total(a: Asker) -> Question | None:
    group = a.group(of=2)
    if group is None:
        return None
    category, value, found = group
    column = a.number()
    total = sum((a.value(i, column) for i in found), Fraction(0))
    return Question(
        "total", 2,
        f"What is the sum of {column} over the {a.world.theme.plural} whose {category} is {value}?",
        _decimal(total), "number",
        ({"operation": "sum", "column": column, "where": f"{category} = {value}"},),
        f"sum(number(r[{column!r}]) for r in rows if r[{category!r}] == {value!r})",
    )  # fmt: skip


def _mean(a: Asker) -> Question | None:
    group = a.group(of=2)
    if group is None:
        return None
    category, value, found = group
    column = a.number()
    total = sum((a.value(i, column) for i in found), Fraction(0))
    return Question(
        "mean", 2,
        f"What is the mean {column} of the {a.world.theme.plural} whose {category} is {value}? "
        "Round to two decimals.",
        rounded(total / len(found)), "rounded",
        ({"operation": "mean", "column": column, "where": f"{category} = {value}"},),
        f"round(sum(c := [number(r[{column!r}]) for r in rows if r[{category!r}] == {value!r}])"
        " / len(c), 2)",
    )  # fmt: skip


def _best_in(a: Asker) -> Question | None:
    group = a.group(of=2)
    if group is None:
        return None
    category, value, found = group
    column = a.number()
    best = max(found, key=lambda i: a.value(i, column))
    return Question(
        "best_in", 2,
        f"Among the {a.world.theme.plural} whose {category} is {value}, which {a.key} has the "
        f"largest {column}?",
        a.name(best), "name",
        ({"operation": "argmax", "column": column, "where": f"{category} = {value}"},),
        f"max((r for r in rows if r[{category!r}] == {value!r}), key=lambda r: "
        f"number(r[{column!r}]))[{a.key!r}]",
    )  # fmt: skip


def _other_column(a: Asker) -> Question | None:
    """The extreme of one column, then another column of that row."""
    if len(a.world.numbers) < 2:
        return None
    by, wanted = a.rng.sample(a.world.numbers, 2)
    best = max(range(len(a.rows)), key=lambda i: a.value(i, by))
    name = a.name(best)
    return Question(
        "other_column", 3,
        f"What is the value of {wanted} for the {a.key} that has the largest {by}?",
        _decimal(a.value(best, wanted)), "number",
        ({"operation": "argmax", "column": by}, _cell(name, wanted)),
        f"number(max(rows, key=lambda r: number(r[{by!r}]))[{wanted!r}])",
    )  # fmt: skip


def _contrast(a: Asker) -> Question | None:
    """Two totals and their difference."""
    category = a.rng.choice(a.world.categories)
    index = a.columns[category]
    values = sorted({row[index] for row in a.rows})
    if len(values) < 2:
        return None
    first, second = a.rng.sample(values, 2)
    column = a.number()
    sums = [
        sum((a.value(i, column) for i, row in enumerate(a.rows) if row[index] == v), Fraction(0))
        for v in (first, second)
    ]
    calls: tuple[Call, ...] = tuple(
        {"operation": "sum", "column": column, "where": f"{category} = {v}"}
        for v in (first, second)
    )
    reckoned = f"{_decimal(sums[0])} - ({_decimal(sums[1])})"
    return Question(
        "contrast", 3,
        f"Take the sum of {column} over the {a.world.theme.plural} whose {category} is {first}, "
        f"minus the same sum where {category} is {second}. What is it?",
        _decimal(sums[0] - sums[1]), "number",
        (*calls, {"operation": "compute", "expression": reckoned}),
        f"sum(number(r[{column!r}]) * ((r[{category!r}] == {first!r}) - "
        f"(r[{category!r}] == {second!r})) for r in rows)",
    )  # fmt: skip


KINDS: Mapping[str, Callable[[Asker], Question | None]] = {
    "lookup": _lookup,
    "argmax": _argmax,
    "count": _count,
    "difference": _difference,
    "total": _total,
    "mean": _mean,
    "best_in": _best_in,
    "other_column": _other_column,
    "contrast": _contrast,
}
"""Every kind; None when a table has nothing of the kind to ask."""
STEPS: Mapping[str, int] = {
    "lookup": 1, "argmax": 1, "count": 1, "difference": 2, "total": 2, "mean": 2, "best_in": 2,
    "other_column": 3, "contrast": 3,
}  # fmt: skip


def right(answer: str, kind: str, prediction: str) -> bool:
    """Whether a prediction is the answer: numbers exactly, `rounded` ones to half a hundredth."""
    if kind == "name":
        return folded(prediction.strip(" .'\"")) == folded(answer)
    found, gold = number(prediction.strip().rstrip(".")), number(answer)
    if found is None or gold is None:
        return False
    return abs(found - gold) <= (Fraction(1, 200) if kind == "rounded" else 0)
