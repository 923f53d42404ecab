"""The table tool: every operation on one small table, by hand; conditions; hostile input."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import ToolError, UserError
from agentrl.testing import check_tool, failures
from agentrl_tools.table import TableTool
from agentrl_tools.table_data import Table, number, read_table
from agentrl_tools.table_where import chosen

TEXT = """
| Name | Home town | Age | Pay in $ |
|---|---|---|---|
| Ada | Oslo | 36 | 1,200.10 |
| Bob | Bread and butter | 25 | $0.20 |
| Cy | Oslo | 25 | |
| Dee | x = y | 41 | -3.5 |
"""
TABLE = read_table(TEXT)


async def asked(operation: str, **arguments: str) -> str:
    return (await TableTool(table=TABLE)(operation=operation, **arguments)).content


@pytest.mark.parametrize(
    ("operation", "arguments", "answer"),
    [
        ("columns", {}, "Name, Home town, Age, Pay in $ (4 rows)"),
        ("cell", {"row": "ada", "column": " home  TOWN"}, "Oslo"),
        ("cell", {"row": "#4", "column": "Age"}, "41"),
        ("row", {"row": "Cy"}, "Name: Cy; Home town: Oslo; Age: 25; Pay in $: "),
        ("column", {"column": "Age"}, "Ada: 36\nBob: 25\nCy: 25\nDee: 41"),
        ("column", {"column": "Age", "where": "Age > 30"}, "Ada: 36\nDee: 41"),
        ("filter", {"column": "Name; Age", "where": "Age = 25"}, "Name | Age\nBob | 25\nCy | 25"),
        ("filter", {"where": "Age > 99"}, "(no rows)"),
        ("count", {}, "4"),
        ("count", {"where": "Home town = Oslo and Age<=30"}, "1"),
        ("sum", {"column": "Pay in $"}, "1196.8"),  # 1200.10 + 0.20 - 3.5
        ("mean", {"column": "Age"}, "31.75"),  # 127 / 4
        ("mean", {"column": "Age", "where": "Name != Dee"}, "86/3 (about 28.6666666667)"),
        ("median", {"column": "Age"}, "30.5"),
        ("min", {"column": "Pay in $"}, "-3.5"),
        ("max", {"column": "Age"}, "41"),
        ("argmax", {"column": "Age"}, "Dee (41)"),
        ("argmin", {"column": "Age"}, "Bob, Cy (25)"),
        ("compute", {"expression": "[Ada, Age] - [Bob, Age]"}, "11"),
        ("compute", {"expression": "[Ada, Pay in $] * 3 + [#4, Pay in $]"}, "3596.8"),
    ],
)
async def test_every_operation(operation: str, arguments: dict[str, str], answer: str) -> None:
    assert await asked(operation, **arguments) == answer


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("Home town = Bread and butter", [1]),
        ('Home town = "Bread and butter" and Age = 25', [1]),
        ("Home town = Bread and butter and Age < 30", [1]),
        ("Home town = x = y", [3]),
        ("'Home town' contains OS", [0, 2]),
        ("Age >= 36.0 AND Name <> Dee", [0]),
        ("Pay in $ < 1", [1, 3]),
        ("Pay in $ != 0.2", [0, 2, 3]),
        ("  ", [0, 1, 2, 3]),
    ],
)
def test_conditions(where: str, rows: list[int]) -> None:
    assert chosen(TABLE, where) == rows


@pytest.mark.parametrize(
    ("operation", "arguments", "told"),
    [
        ("cell", {"row": "Ada"}, "cell needs the argument 'column'"),
        ("cell", {"row": "Adda", "column": "Age"}, "no row 'Adda'. Did you mean 'Ada'"),
        ("cell", {"row": "#9", "column": "Age"}, "rows are #1 to #4"),
        ("column", {"column": "zz"}, "The columns: Name, Home town"),
        ("sum", {"column": "Home town"}, "Home town of Ada is 'Oslo', no number"),
        ("sum", {"column": "Age", "where": "Age > 99"}, "No row has a number in Age"),
        ("count", {"where": "Age"}, "no comparison in 'Age'"),
        ("count", {"where": "Age > old"}, "compares numbers, and 'old' is none"),
        ("count", {"where": "Age = "}, "has no value"),
        ("count", {"where": "'Age' = '3' or"}, "comes no `and`"),
        ("count", {"where": " and ".join(["Age = 1"] * 17)}, "16 conditions"),
        ("count", {"where": "a" * 5000}, "longer than 1000"),
        ("compute", {"expression": "[Ada] + 1"}, "Write a cell as"),
        ("compute", {"expression": "[Ada, Home town] + 1"}, "is 'Oslo', no number"),
        ("compute", {"expression": "[Ada, Age] ^ [Ada, Age] ^ 999"}, "cannot be calculated"),
        ("compute", {"expression": "[Ada,Age]" * 65}, "64 cells"),
        ("drop", {}, "no operation 'drop'"),
    ],
)
async def test_errors_teach(operation: str, arguments: dict[str, str], told: str) -> None:
    with pytest.raises(ToolError) as error:
        await asked(operation, **arguments)
    assert told in str(error.value)


async def test_names_twice_need_a_number() -> None:
    tool = TableTool(table="Name,Age\nAda,1\nAda,2\n")
    with pytest.raises(ToolError, match="2 rows are named 'Ada': #1, #2"):
        await tool(operation="row", row="Ada")
    assert (await tool(operation="cell", row="#2", column="Age")).content == "2"


async def test_long_answers_are_bounded_and_say_so() -> None:
    tool = TableTool(table=Table(("Name", "Age"), tuple((f"n{i}", str(i)) for i in range(500))))
    listed = (await tool(operation="filter", column="Name", where="Age >= 100")).content
    assert listed.splitlines()[-1] == "(the first 20 of 400 rows; narrow `where`)"
    assert len(listed.splitlines()) == 22
    wide = await TableTool(table=Table(("Name",), (("x" * 5000,),)))(operation="row", row="#1")
    assert (len(wide.content), wide.truncated) == (1003, True)


def test_reading() -> None:
    assert read_table("a\tb\n1\t2").rows == (("1", "2"),)
    assert read_table('a,b\n"1,5",2').rows == (("1,5", "2"),)
    for broken in ("", "a,a\n1,2", "a,b\n1", ",b\n1,2"):
        with pytest.raises(UserError):
            read_table(broken)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,250.5", Fraction(2501, 2)), ("$3", Fraction(3)), ("-$3", Fraction(-3)),
        ("40 %", Fraction(40)), (".5", Fraction(1, 2)), ("−2", Fraction(-2)), ("1,2", None),
        ("1e5", None), ("", None), ("12a", None), ("--3", None), ("$-3", Fraction(-3)),
    ],
)  # fmt: skip
def test_numbers(text: str, value: Fraction | None) -> None:
    assert number(text) == value


@given(st.text(max_size=80), st.text(max_size=80))
async def test_no_text_breaks_it(where: str, expression: str) -> None:
    for operation in ("count", "compute", "cell", where):
        try:
            answer = await asked(
                operation, where=where, expression=expression, column=where, row=expression
            )
        except ToolError:
            continue
        assert isinstance(answer, str)


async def test_kit_and_copies() -> None:
    assert not failures(await check_tool(lambda: TableTool(table=TABLE)))
    assert not failures(await check_tool(TableTool))
    first, second = await TableTool(table=TABLE).fork(2)
    first.give(read_table("Name\nZed"))
    assert (await second(operation="count")).content == "4"
    assert (await first(operation="count")).content == "1"
