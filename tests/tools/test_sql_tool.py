"""The SQL tool on the real sandbox: answers, refusals, limits, copies, hostile code beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentrl.context import Context
from agentrl.env import Forkable
from agentrl.errors import ToolError, UserError
from agentrl.sandbox import Sandbox, SandboxPool
from agentrl.testing import check_tool, failures
from agentrl_tools.sql import SqlTool
from agentrl_tools.sql_session import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = """
CREATE TABLE town(name TEXT PRIMARY KEY, people INTEGER, area REAL, photo BLOB);
INSERT INTO town VALUES ('Vello', 1200, 3.5, x'00ff'), ('Mirk', 80, NULL, NULL),
  ('Åsby', 80, 0.1, NULL);
"""


@asynccontextmanager
async def opened(
    pool: SandboxPool, tool: SqlTool | None = None
) -> AsyncIterator[tuple[SqlTool, Sandbox]]:
    box = await pool.acquire()

    async def lease() -> Sandbox:
        return box

    sql = tool or SqlTool(script=SCRIPT)
    await sql.open(Context(lease_sandbox=lease))
    try:
        yield sql, box
    finally:
        await sql.close()
        await box.close()


async def asked(sql: SqlTool, query: str) -> str:
    return (await sql(query=query)).content


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("SELECT name FROM town WHERE people = 80 ORDER BY 1", "name\nMirk\nÅsby\n(2 rows)"),
        ("select count(*), sum(area) from town", "count(*) | sum(area)\n3 | 3.6\n(1 row)"),
        ("SELECT area, photo FROM town LIMIT 2;", "area | photo\n3.5 | x'00ff'\nNULL | NULL\n(2 rows)"),
        ("SELECT 1 AS a WHERE 0", "a\n(0 rows)"),
        ("WITH t(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM t LIMIT 3) SELECT max(n) AS m FROM t",
         "m\n3\n(1 row)"),
        ("SELECT 9e999 AS a, 'x' || char(10) || 'y' AS b", "a | b\ninf | x\\ny\n(1 row)"),
        ("SELECT name FROM sqlite_master", "name\ntown\nsqlite_autoindex_town_1\n(2 rows)"),
    ],
)  # fmt: skip
async def test_answers(local_pool: SandboxPool, query: str, answer: str) -> None:
    async with opened(local_pool) as (sql, _):
        assert await asked(sql, query) == answer


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("INSERT INTO town VALUES ('x', 1, 1, NULL)", "INSERT was refused"),
        ("DELETE FROM town", "DELETE was refused"),
        ("UPDATE town SET people = 0", "UPDATE was refused"),
        ("DROP TABLE town", "DROP was refused"),
        ("CREATE TABLE x(a)", "CREATE was refused"),
        ("CREATE TEMP VIEW v AS SELECT 1", "CREATE was refused"),
        ("ALTER TABLE town ADD COLUMN x", "ALTER was refused"),
        ("ATTACH '/etc/passwd' AS p", "ATTACH was refused"),
        ("ATTACH ':memory:' AS p", "ATTACH was refused"),
        ("VACUUM INTO 'copy.db'", "VACUUM was refused"),
        ("PRAGMA query_only = OFF", "PRAGMA was refused"),
        ("PRAGMA table_info(town)", "PRAGMA was refused"),
        ("SELECT * FROM pragma_table_info('town')", "was refused"),
        ("WITH a AS (SELECT 1) DELETE FROM town", "a write was refused"),
        ("BEGIN", "refused"),
        ("SAVEPOINT a", "refused"),
        ("REINDEX", "refused"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT 1; DELETE FROM town", "single SELECT"),
        ("-- nothing", "refused"),
        ("SELEC 1", "syntax error"),
        (
            "SELECT nam FROM town",
            "no such column: nam. The tables: town(name, people, area, photo)",
        ),
        ("SELECT * FROM twon", "no such table: twon. The tables: town("),
        ("SELECT '\x00", "SQL error"),
        ("SELECT '\ud800'", "SQL error"),
        ("SELECT zeroblob(100000000)", "too big"),
        ("SELECT " + "(" * 300 + "1" + ")" * 300, "SQL error"),
        ("SELECT 1 -- " + "x" * 30_000, "SQL error"),
        ("   ", "no query to run"),
    ],
)
async def test_what_is_refused_and_why(local_pool: SandboxPool, query: str, told: str) -> None:
    async with opened(local_pool) as (sql, _):
        with pytest.raises(ToolError) as error:
            await sql(query=query)
        assert told in str(error.value)
        assert await asked(sql, "SELECT sum(people) AS n FROM town") == "n\n1360\n(1 row)"


async def test_an_endless_query_is_stopped_and_the_interpreter_lives(
    local_pool: SandboxPool,
) -> None:
    tool = SqlTool(script=SCRIPT, timeout_s=0.3)
    endless = "WITH RECURSIVE t(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM t) SELECT max(n) FROM t"
    async with opened(local_pool, tool) as (sql, box):
        await box.run("kept = 7", timeout_s=5)
        with pytest.raises(ToolError, match=r"longer than 0.3 seconds"):
            await sql(query=endless)
        assert (await box.run("kept", timeout_s=5)).value == "7"


async def test_rows_cells_and_bytes_are_bounded(local_pool: SandboxPool) -> None:
    many = "WITH RECURSIVE t(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM t) SELECT n FROM t"
    async with opened(local_pool) as (sql, _):
        listed = await sql(query=many)
        assert listed.content.endswith("19\n20\n(the first 20 rows of more)")
        assert listed.truncated
        wide = await sql(query="SELECT printf('%0900000d', 1) AS a, 'b' AS b")
        assert wide.content == "a | b\n" + "0" * 100 + "... | b\n(1 row)"
        assert len((await sql(query="SELECT randomblob(900000) AS a")).content) < 300


async def test_the_model_may_break_the_helper_but_not_the_tool(local_pool: SandboxPool) -> None:
    async with opened(local_pool) as (sql, box):
        assert await asked(sql, "SELECT max(people) AS n FROM town") == "n\n1200\n(1 row)"
        await box.run("import sys; del sys.modules['agentrl_tools.inside_sql']", timeout_s=5)
        assert await asked(sql, "SELECT max(people) AS n FROM town") == "n\n1200\n(1 row)"
        await box.reset()
        assert await asked(sql, "SELECT max(people) AS n FROM town") == "n\n1200\n(1 row)"
        for forged in ("'[1]'", "'{\"columns\": 3}'", "7", "'x' * 10**6", "1 / 0"):
            forging = (
                f"import sys; sys.modules['agentrl_tools.inside_sql'].query = lambda *a: {forged}"
            )
            await box.run(forging, timeout_s=5)
            with pytest.raises(ToolError, match="no readable result"):
                await sql(query="SELECT 1")


async def test_a_file_is_carried_in_pieces(local_pool: SandboxPool, tmp_path: Path) -> None:
    path = tmp_path / "towns.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE t(a TEXT)")
        made.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 2500)
    made.close()
    assert path.stat().st_size > 2 << 20
    async with opened(local_pool, SqlTool(database=str(path))) as (sql, _):
        assert await asked(sql, "SELECT sum(length(a)) AS n FROM t") == "n\n2500000\n(1 row)"
        with pytest.raises(ToolError, match="DELETE was refused"):
            await sql(query="DELETE FROM t")


async def test_copies_go_on_in_their_own_sandboxes(local_pool: SandboxPool) -> None:
    async with opened(local_pool) as (sql, box):
        await asked(sql, "SELECT 1")
        assert isinstance(box, Forkable)
        (branch,) = await box.fork(1)

        async def lease() -> Sandbox:
            return branch

        (copy,) = await sql.fork(1)
        await copy.open(Context(lease_sandbox=lease))
        assert await asked(copy, "SELECT max(people) AS n FROM town") == "n\n1200\n(1 row)"
        await branch.close()


async def test_bad_databases(local_pool: SandboxPool, tmp_path: Path) -> None:
    async with opened(local_pool, SqlTool(script="CREATE TABLE")) as (sql, _):
        with pytest.raises(UserError, match="incomplete input"):
            await sql(query="SELECT 1")
    async with opened(local_pool, SqlTool()) as (sql, _):
        with pytest.raises(ToolError, match="no database"):
            await sql(query="SELECT 1")
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\x00" + b"junk" * 200)
    async with opened(local_pool, SqlTool(database=str(broken))) as (sql, _):
        with pytest.raises(UserError, match="cannot be made"):
            await sql(query="SELECT 1")
    broken.write_text("no database")
    with pytest.raises(UserError, match="no SQLite file"):
        SqlTool(database=str(broken))
    with pytest.raises(UserError, match="cannot be read"):
        SqlTool(database=str(tmp_path / "absent.db"))
    with pytest.raises(UserError, match="not both"):
        SqlTool(database="x", script="y")
    with pytest.raises(UserError, match="64 at most"):
        Database(b"x" * (65 << 20))


async def test_kit(local_pool: SandboxPool) -> None:
    good = {"query": "SELECT count(*) FROM town"}
    made = await check_tool(lambda: SqlTool(script=SCRIPT), arguments=good, pool=local_pool)
    assert not failures(made)
    assert not failures(await check_tool(SqlTool))
