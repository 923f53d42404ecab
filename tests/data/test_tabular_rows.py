"""Rows with tables and databases: every form, what they become, and what is wrong with broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.data.tasks import load_tasks
from agentrl.env import Action
from agentrl.errors import UserError
from agentrl.types import Task
from agentrl_envs.tables.env import Tables
from agentrl_tools.table_data import table_of


def loaded(tmp_path: Path, **row: object) -> Task:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (task,) = load_tasks(str(path))
    return task


@pytest.mark.parametrize(
    "table",
    [
        "Name,Age\nAda,36\nBob,",
        {"header": ["Name", "Age"], "rows": [["Ada", "36"], ["Bob", ""]]},
        [["Name", "Age"], ["Ada", 36], ["Bob", None]],
        [{"Name": "Ada", "Age": 36}, {"Name": "Bob"}],
    ],
)
async def test_every_form_is_the_same_table(tmp_path: Path, table: object) -> None:
    task = loaded(tmp_path, question="How old is Ada?", table=table, answer="36")
    found = table_of(task.metadata["table"])
    assert (found.columns, found.rows) == (("Name", "Age"), (("Ada", "36"), ("Bob", "")))
    env = Tables()
    await env.reset(task, seed=0)
    assert (await env.step(Action("<answer>36.0</answer>"))).reward == 1.0


async def test_names_as_answers_need_no_kind(tmp_path: Path) -> None:
    none = loaded(tmp_path, question="How many?", table="Name\nAda", answer=0)
    env = Tables()
    await env.reset(none, seed=0)
    assert (await env.step(Action("<answer>0.0</answer>"))).reward == 1.0
    task = loaded(tmp_path, question="Who?", table="Name,Age\nAda,36", answers=["Ada", "x"])
    assert task.answer == "Ada"
    env = Tables()
    await env.reset(task, seed=0)
    assert (await env.step(Action("<answer>ada</answer>"))).reward == 1.0


def test_untidy_tables_are_tidied() -> None:
    table = table_of({"header": ["A", "a", ""], "rows": [["1"], ["1", "2", "3", "4"], "x\ny"]})
    assert table.columns == ("A", "a (2)", "column 3")
    assert table.rows == (("1", "", ""), ("1", "2", "3"), ("x y", "", ""))
    for broken in (3, {"header": []}, {"header": "ab", "rows": []}):
        with pytest.raises(UserError, match="a table is text or"):
            table_of(broken)  # type: ignore[arg-type]


def test_sql_rows(tmp_path: Path) -> None:
    script = "CREATE TABLE t(a); INSERT INTO t VALUES (1);"
    task = loaded(tmp_path, question="?", query="SELECT a FROM t ORDER BY a", database=script)
    assert task.answer == "SELECT a FROM t ORDER BY a"
    assert task.metadata == {"database": script, "ordered": True}
    path = loaded(tmp_path, question="?", SQL="SELECT 1", database_path="x.db", ordered=False)
    assert path.metadata == {"database_path": "x.db", "ordered": False}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "?", "table": 3, "answer": "1"}, "table is neither text"),
        ({"question": "?", "table": [], "answer": "1"}, "table is neither text"),
        ({"question": "?", "table": "a\n1"}, "answer is missing"),
        ({"question": "?", "query": "SELECT 1", "database": ""}, "neither database"),
        ({"question": "?", "query": "", "database": "x"}, "query"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, row: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        loaded(tmp_path, **row)
