"""SQL questions: results compared by hand, the twin against constants, the contract, experts."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.chat.protocols.hermes import Hermes
from agentrl.context import Context
from agentrl.env import StepResult
from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import Sandbox, SandboxPool
from agentrl.testing import FakePool, check_env, failures
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.families.base import split_of
from agentrl_envs.sql_qa.env import SqlQA
from agentrl_envs.sql_qa.queries import KINDS
from agentrl_envs.sql_qa.results import same_results
from agentrl_tools.sql_session import Cell, Rows

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIRST = """CREATE TABLE pet(name TEXT, age INTEGER, weight REAL);
INSERT INTO pet VALUES ('Rex', 3, 10.5), ('Tom', 7, 4.5), ('Kit', 7, 0.1);"""
SECOND = """CREATE TABLE pet(name TEXT, age INTEGER, weight REAL);
INSERT INTO pet VALUES ('Rex', 9, 1), ('Tom', 1, 2), ('Kit', 2, 3);"""
OLDEST = Task(
    "pets", "How old is the oldest pet?", "SELECT max(age) FROM pet",
    {"database": FIRST, "twin": SECOND},
)  # fmt: skip


def rows(*found: tuple[Cell, ...], more: bool = False) -> Rows:
    return Rows(("a",) * len(found[0]) if found else ("a",), found, more)


@pytest.mark.parametrize(
    ("gold", "found", "ordered", "verdict"),
    [
        (rows((1,), (2,)), rows((2,), (1,)), False, True),
        (rows((1,), (2,)), rows((2,), (1,)), True, False),
        (rows((1,), (1,)), rows((1,)), False, False),
        (rows((1,), (1,), (2,)), rows((1,), (2,), (2,)), False, False),
        (rows((1, "x")), rows(("x", 1)), False, False),
        (rows((1,)), rows((1.0,)), False, True),
        (rows((0.1 + 0.2,)), rows((0.3,)), False, True),
        (rows((0.3,), (1.0,)), rows((1.0000001,), (0.30000001,)), False, True),
        (rows((1.0,)), rows((1.001,)), False, False),
        (rows((2**60,)), rows((2**60 + 1,)), False, False),
        (rows((1,)), rows(("1",)), False, False),
        (rows((None,)), rows((None,)), False, True),
        (rows((None,)), rows((0,)), False, False),
        (rows(("a",), (None,), (3,), (b"\x01",)), rows((b"\x01",), (3,), ("a",), (None,)), False, True),
        (rows(), rows(), False, True),
        (rows((1,)), rows((1,), more=True), False, False),
    ],
)  # fmt: skip
async def test_results_by_hand(gold: Rows, found: Rows, ordered: bool, verdict: bool) -> None:
    assert same_results(gold, found, ordered=ordered) is verdict


@given(st.lists(st.tuples(st.integers(-3, 3) | st.none(), st.sampled_from("ab"))), st.randoms())
async def test_bags_do_not_care_for_order_but_for_number(
    found: list[tuple[Cell, ...]], rng: Random
) -> None:
    shuffled = rng.sample(found, len(found))
    assert same_results(rows(*found), rows(*shuffled), ordered=False)
    assert same_results(rows(*found), rows(*shuffled), ordered=True) is (found == shuffled)
    if found:
        fewer, doubled = shuffled[1:], [*shuffled[1:], shuffled[-1]]
        columns = ("a", "a")
        for other in (fewer, doubled):
            same = sorted(map(repr, other)) == sorted(map(repr, found))
            told = Rows(columns, tuple(other), False)
            assert same_results(Rows(columns, tuple(found), False), told, ordered=False) is same


@asynccontextmanager
async def playing(env: SqlQA, pool: SandboxPool) -> AsyncIterator[SqlQA]:
    box = await pool.acquire()

    async def lease() -> Sandbox:
        return box

    await env.open(Context(lease_sandbox=lease))
    try:
        yield env
    finally:
        await env.close()
        await box.close()


async def said(env: SqlQA, task: Task, text: str) -> StepResult:
    await env.reset(task, seed=0)
    return await env.step(Hermes().parse(ids_array(()), text, turn=0))


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<answer>SELECT max(age) FROM pet</answer>", 1.0),
        ("<answer>\n```sql\nselect age from pet order by 1 desc limit 1;\n```\n</answer>", 1.0),
        ("<answer>SELECT 7</answer>", 0.0),  # right on the first database alone
        ("<answer>SELECT min(age) FROM pet</answer>", 0.0),
        ("<answer>SELECT age FROM pet</answer>", 0.0),
        ("<answer>SELECT max(age), 1 FROM pet</answer>", 0.0),
        ("<answer>DELETE FROM pet</answer>", 0.0),
        ("<answer>PRAGMA query_only = 0</answer>", 0.0),
        ("<answer>nonsense</answer>", 0.0),
        ("<answer></answer>", 0.0),
        ("SELECT max(age) FROM pet", 0.0),
        ("<answer>WITH RECURSIVE t(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM t)"
         " SELECT max(n) FROM t</answer>", 0.0),
    ],
)  # fmt: skip
async def test_answers(local_pool: SandboxPool, text: str, reward: float) -> None:
    async with playing(SqlQA(query_s=0.5), local_pool) as env:
        assert (await said(env, OLDEST, text))[1:4] == (reward, True, False)


async def test_order_counts_when_asked(local_pool: SandboxPool) -> None:
    data = {"database": FIRST, "ordered": True}
    task = Task("t", "By weight?", "SELECT name FROM pet ORDER BY weight", data)
    other = "<answer>SELECT name FROM pet ORDER BY weight DESC</answer>"
    async with playing(SqlQA(), local_pool) as env:
        (message,) = await env.reset(task, seed=0)
        assert "The order of the rows counts." in message.content
        assert message.content.startswith("The database:\nCREATE TABLE pet(")
        assert (await said(env, task, other)).reward == 0.0
        loose = Task("t", task.question, task.answer, {"database": FIRST})
        assert (await said(env, loose, other)).reward == 1.0


async def test_experts_solve_every_kind(local_pool: SandboxPool) -> None:
    async with playing(SqlQA(finish=True), local_pool) as env:
        kinds: Counter[str] = Counter()
        for task in islice(env.tasks("test", seed=4), 60):
            await env.reset(task, seed=0)
            for i, text in enumerate(env.expert(task, seed=0)):
                step = await env.step(Hermes().parse(ids_array(()), text, turn=i))
            assert (step.reward, step.terminated) == (1.0, True), task.id
            kinds[str(task.metadata["family"])] += 1
    assert set(kinds) == set(KINDS)


async def test_splits_share_no_name_and_twins_differ() -> None:
    names: dict[str, set[str]] = {}
    for split in ("train", "test"):
        for task in islice(SqlQA().tasks(split, seed=0), 50):
            results: list[list[tuple[object, ...]]] = []
            for made in ("database", "twin"):
                with closing(sqlite3.connect(":memory:")) as connection:
                    connection.executescript(str(task.metadata[made]))
                    results.append(connection.execute(str(task.answer)).fetchall())
                    (table,) = connection.execute("SELECT name FROM sqlite_master").fetchone()
                    found = connection.execute(f"SELECT name FROM {table}").fetchall()
                    names.setdefault(split, set()).update(name for (name,) in found)
            assert results[0]
            assert results[1]
            assert results[0] != results[1]
        assert {split_of(name) for name in names[split]} == {split}


async def test_contract(local_pool: SandboxPool) -> None:
    assert not failures(await check_env(lambda: SqlQA(show_schema=False), pool=local_pool))


async def test_blind_players_earn_little(local_pool: SandboxPool) -> None:
    async with playing(SqlQA(tools="none"), local_pool) as env:
        rng, total = Random(1), 0.0
        for task in islice(env.tasks("train", seed=5), 150):
            total += (await said(env, task, env.random_turn(rng))).reward
    assert total / 150 < SqlQA.random_ceiling


async def test_a_file_and_what_a_task_lacks(local_pool: SandboxPool, tmp_path: Path) -> None:
    path = tmp_path / "pets.db"
    with closing(sqlite3.connect(path)) as made:
        made.executescript(FIRST)
    task = Task("t", "Oldest?", OLDEST.answer, {"database_path": str(path)})
    async with playing(SqlQA(), local_pool) as env:
        right = await said(env, task, "<answer>SELECT max(age) FROM pet</answer>")
        assert right.reward == 1.0
        with pytest.raises(UserError, match="has no database"):
            await env.reset(Task("t", "?", "SELECT 1"), seed=0)
        with pytest.raises(UserError, match="no gold query"):
            await env.reset(Task("t", "?", None, {"database": FIRST}), seed=0)
        broken = Task("t", "?", "SELECT nothing", {"database": FIRST})
        with pytest.raises(UserError, match="gold query of task t fails"):
            await said(env, broken, "<answer>SELECT 1</answer>")


async def test_without_a_verdict_nothing_is_trained(local_pool: SandboxPool) -> None:
    """A gold query that is too slow or too long says nothing about the answer."""
    counting = "WITH RECURSIVE t(n) AS (VALUES(1) UNION ALL SELECT n+1 FROM t{}) SELECT n FROM t"
    slow = counting.format("").replace("SELECT n FROM t", "SELECT max(n) FROM t")
    for gold in (slow, counting.format(" LIMIT 5000")):
        task = Task("t", "?", gold, {"database": FIRST})
        async with playing(SqlQA(query_s=0.3), local_pool) as env:
            step = await said(env, task, "<answer>SELECT 1</answer>")
            assert (step.reward, step.terminated, step.info.excluded) == (0.0, True, "unverified")


async def test_a_lost_sandbox_is_the_worlds_fault() -> None:
    pool = FakePool([SandboxError("gone")])
    async with playing(SqlQA(), pool) as env:
        with pytest.raises(SandboxError, match="gone"):
            await said(env, OLDEST, "<answer>SELECT 1</answer>")


@pytest.mark.parametrize(
    "options",
    [{"kinds": ("x",)}, {"levels": (0,)}, {"members": 2}, {"kinds": ("top",), "levels": (2,)}],
)
async def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        SqlQA(**options)  # type: ignore[arg-type]
