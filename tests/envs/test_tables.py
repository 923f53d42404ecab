"""Tables: questions by hand, the checker, experts by tool and by Python, the contract."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from itertools import islice
from random import Random

import pytest

from agentrl.chat.protocols.hermes import Hermes
from agentrl.context import Context
from agentrl.errors import UserError
from agentrl.sandbox import Sandbox, SandboxPool
from agentrl.testing import check_env, failures
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.families.base import split_of
from agentrl_envs.tables.env import Tables
from agentrl_envs.tables.questions import KINDS, Asker, Question, right, rounded
from agentrl_envs.tables.steps import propose
from agentrl_envs.tables.world import THEMES, Size, World, make_world
from agentrl_tools.table_data import read_table

PEOPLE = read_table("Town,Region,Residents,Bridges\nVel,Ost,1200,3\nMirk,Ost,80,9\nAsb,Nor,500.5,4")
WORLD = World(THEMES[0], PEOPLE, ("Region",), ("Residents", "Bridges"))


class Fixed(Random):
    """Takes the first of everything."""

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return seq[0]

    def sample(self, population, k, *, counts=None):  # type: ignore[no-untyped-def]
        return list(population)[:k]

    def randrange(self, *args):  # type: ignore[no-untyped-def]
        return 0

    def random(self) -> float:
        return 0.0

    def shuffle(self, x) -> None:  # type: ignore[no-untyped-def]
        x.reverse()


class Tails(Fixed):
    """Every coin falls the other way."""

    def random(self) -> float:
        return 0.9

    def randint(self, a: int, b: int) -> int:
        return a


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("lookup", "What is the value of Residents for Vel?", "1200"),
        ("argmax", "Which Town has the largest Residents?", "Vel"),
        ("count", "Of how many towns is Residents above 1200?", "0"),
        ("difference", "What is Residents of Vel minus Residents of Mirk? Give a", "1120"),
        ("total", "What is the sum of Residents over the towns whose Region is Ost?", "1280"),
        ("mean", "What is the mean Residents of the towns whose Region is Ost?", "640"),
        ("best_in", "Among the towns whose Region is Ost, which Town has the largest", "Vel"),
        ("other_column", "value of Bridges for the Town that has the largest Residents?", "3"),
        # Nor 500.5 minus Ost 1280
        ("contrast", "whose Region is Nor, minus the same sum where Region is Ost.", "-779.5"),
    ],
)
def test_questions_by_hand(kind: str, text: str, answer: str) -> None:
    question = KINDS[kind](Asker(Fixed(), WORLD))
    assert isinstance(question, Question)
    assert text in question.text
    assert question.answer == answer


@pytest.mark.parametrize(
    ("answer", "kind", "prediction", "verdict"),
    [
        ("1200", "number", "1,200", True), ("1200", "number", "1200.0", True),
        ("1200", "number", "$1200.", True), ("1200", "number", "1201", False),
        ("1200", "number", "about 1200", False), ("-779.5", "number", "−779.50", True),
        ("0.1", "number", "0.10000000001", False), ("3.33", "rounded", "3.333333", True),
        ("3.33", "rounded", "3.34", False), ("3.33", "rounded", "3.335", True),
        ("Vel", "name", " vel.", True), ("Vel", "name", "Vel and Mirk", False),
        ("Vel", "name", "", False), ("7", "number", "", False), ("7", "number", "9" * 400, False),
    ],
)  # fmt: skip
def test_the_checker_is_exact(answer: str, kind: str, prediction: str, verdict: bool) -> None:
    assert right(answer, kind, prediction) is verdict


def test_rounding() -> None:
    assert rounded(Fraction(10, 3)) == "3.33"
    assert rounded(Fraction(-2, 3)) == "-0.67"
    assert rounded(Fraction(5)) == "5"


def test_size_grows_with_the_level_and_splits_share_no_name() -> None:
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    kinds: Counter[str] = Counter()
    for split, names in seen.items():
        for task in islice(Tables().tasks(split, seed=3), 150):
            kinds[str(task.metadata["family"])] += 1
            table = read_table(str(task.metadata["table"]))
            assert task.metadata["steps"] <= task.metadata["level"]  # type: ignore[operator]
            assert len(table.rows) == {1: 4, 2: 8, 3: 24}[task.metadata["level"]]  # type: ignore[index]
            names |= {row[0] for row in table.rows}
        assert all(split_of(name) == split for name in names)
    assert not seen["train"] & seen["test"]
    assert set(kinds) == set(KINDS)


def test_knobs_set_rows_columns_and_distractors() -> None:
    env = Tables(levels=(1,), rows=5, columns=3, distractors=4)
    (task,) = islice(env.tasks("train", seed=0), 1)
    table = read_table(str(task.metadata["table"]))
    assert (len(table.rows), len(table.columns)) == (5, 3 + 4)
    world = make_world(Random(0), "train", Size(6, 5, 3))
    assert sum(name.endswith(("last year", "planned", "estimated")) for name in world.table.columns)
    assert not any("planned" in name for name in world.numbers)


@asynccontextmanager
async def playing(env: Tables, pool: SandboxPool | None) -> AsyncIterator[Tables]:
    box = await pool.acquire() if pool is not None else None

    async def lease() -> Sandbox:
        assert box is not None
        return box

    await env.open(Context(lease_sandbox=lease))
    try:
        yield env
    finally:
        await env.close()
        if box is not None:
            await box.close()


async def played(env: Tables, task: Task, turns: list[str]) -> tuple[float, list[str]]:
    """Reward and tool answers of an episode."""
    await env.reset(task, seed=0)
    told: list[str] = []
    for i, text in enumerate(turns):
        step = await env.step(Hermes().parse(ids_array(()), text, turn=i))
        told += [m.content for m in step.observation]
    assert step.terminated
    return step.reward, told


async def test_the_experts_tool_says_the_answer() -> None:
    """The tool's last word is the gold answer, which was worked out by other code."""
    async with playing(Tables(finish=True), None) as env:
        for task in islice(env.tasks("test", seed=1), 60):
            turns = list(env.expert(task, seed=0))
            reward, told = await played(env, task, turns)
            assert reward == 1.0, task.id
            said = told[-1].split(" (")[0].replace(",", "")
            if task.metadata["answer_kind"] == "rounded":
                said = rounded(Fraction(said))
            assert said == task.answer, (task.question, told)


@pytest.mark.asyncio(loop_scope="module")
async def test_python_finds_the_answers_too(local_pool: SandboxPool) -> None:
    async with playing(Tables(tools="python"), local_pool) as env:
        for task in islice(env.tasks("train", seed=2), 30):
            reward, told = await played(env, task, list(env.expert(task, seed=0)))
            assert reward == 1.0
            assert right(str(task.answer), str(task.metadata["answer_kind"]), told[0]), told


@pytest.mark.asyncio(loop_scope="module")
async def test_the_tables_file_survives_the_interpreter(local_pool: SandboxPool) -> None:
    async with playing(Tables(tools="python"), local_pool) as env:
        (task,) = islice(env.tasks("train", seed=2), 1)
        await env.reset(task, seed=0)
        for code in ("import os; os._exit(1)", "print(len(open('table.csv').readlines()))"):
            call = json.dumps({"name": "python", "arguments": {"code": code}})
            text = f"<tool_call>\n{call}\n</tool_call>"
            step = await env.step(Hermes().parse(ids_array(()), text, turn=0))
        assert step.observation[0].content == str(int(str(task.metadata["rows"])) + 1)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("tools", ["table", "both", "none"])
async def test_contract(local_pool: SandboxPool, tools: str) -> None:
    made = await check_env(lambda: Tables(tools=tools), pool=local_pool)  # type: ignore[arg-type]
    assert not failures(made)
    if tools == "table":
        made = await check_env(lambda: Tables(role="verify", finish=True), pool=local_pool)
        assert not failures(made)


async def test_verifiers_label_steps() -> None:
    """The expert's labels are all right; half of the proposed steps are wrong."""
    async with playing(Tables(role="verify"), None) as env:
        labels: list[int] = []
        for task in islice(env.tasks("test", seed=1), 60):
            reward, _ = await played(env, task, list(env.expert(task, seed=0)))
            assert reward == 1.0
            gold = [int(x) for x in str(task.answer).split()]
            assert gold == task.metadata["labels"]
            labels += gold
            flipped = "".join(f"<label>{-x:+d}</label>" for x in gold)
            assert (await played(env, task, [flipped]))[0] == 0.0
            first = f"<label>{gold[0]:+d}</label>"
            assert (await played(env, task, [first]))[0] == pytest.approx(1 / len(gold))
            assert (await played(env, task, [first * 9]))[0] == 0.0
        assert 0.35 < labels.count(1) / len(labels) < 0.65


def test_proposed_steps_by_hand() -> None:
    """Each step is judged by itself: against the table, or against the answer."""
    question = KINDS["other_column"](Asker(Fixed(), WORLD))
    assert isinstance(question, Question)
    proposed = propose(Fixed(), PEOPLE, question)  # every coin says: leave it right
    assert proposed.text == (
        "Step 1: argmax of Residents gives Vel.\nStep 2: cell of Bridges of Vel gives 3.\n"
        "Step 3: So the answer is 3."
    )
    assert (proposed.labels, proposed.checks) == ((1, 1, 1), ("Vel", "3", "3"))
    wrong = propose(Tails(), PEOPLE, question)
    assert wrong.labels == (-1, -1, -1)
    assert wrong.checks == ("Vel", "3", "3")
    assert wrong.steps[0] == "argmax of Residents gives Mirk."


async def test_blind_players_earn_little() -> None:
    async with playing(Tables(), None) as env:
        rng, total = Random(0), 0.0
        for task in islice(env.tasks("train", seed=5), 300):
            await env.reset(task, seed=0)
            step = await env.step(Hermes().parse(ids_array(()), env.random_turn(rng), turn=0))
            total += step.reward
    assert total / 300 < Tables.random_ceiling


@pytest.mark.parametrize(
    "options",
    [
        {"kinds": ("sum",)}, {"levels": (4,)}, {"levels": ()}, {"rows": 1}, {"columns": 2},
        {"kinds": ("contrast",), "levels": (1,)}, {"tools": "none", "show": "columns"},
    ],
)  # fmt: skip
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Tables(**options)  # type: ignore[arg-type]


async def test_foreign_tasks() -> None:
    async with playing(Tables(tools="none"), None) as env:
        own = Task("mine", "How old is Ada?", "36", {"table": "Name,Age\nAda,36"})
        (message,) = await env.reset(own, seed=0)
        assert "Name | Age\nAda | 36" in message.content
        step = await env.step(Hermes().parse(ids_array(()), r"\boxed{36}", turn=0))
        assert step.reward == 1.0
        with pytest.raises(UserError, match="was not generated"):
            list(env.expert(own, seed=0))
        with pytest.raises(UserError, match="metadata `table`"):
            await env.reset(Task("t", "?", "1"), seed=0)
