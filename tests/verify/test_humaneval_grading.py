"""HumanEval (2107.03374): every canonical solution passes, every spoilt one fails."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agentrl.errors import SandboxUnavailable
from agentrl.testing.mutants import mutants
from agentrl.types import Task
from agentrl.verify.code import Grade, GradeLimits, Grader, forms
from agentrl_sandbox.local import LocalPool

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "humaneval.jsonl.gz"
MUTANTS = 8
"""Tried of each solution until one is caught; HumanEval's tests let some mutants live."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    if not DATA.exists():
        pytest.skip("needs ../shared/data/humaneval.jsonl.gz")
    with gzip.open(DATA, "rt") as file:
        return [json.loads(line) for line in file]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[Grader]:
    pool = LocalPool()
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield Grader(pool, at_once=4)
    await pool.close()


async def graded(grader: Grader, row: dict[str, Any], code: str, case_s: float = 30.0) -> Grade:
    task = Task(row["task_id"], row["prompt"], metadata=row)
    return await grader.grade(forms.tests_of(task), code, GradeLimits(case_s=case_s))


async def all_graded(grader: Grader, pairs: list[tuple[dict[str, Any], str]]) -> dict[str, Grade]:
    async with asyncio.TaskGroup() as group:
        tasks = {r["task_id"]: group.create_task(graded(grader, r, code)) for r, code in pairs}
    return {name: task.result() for name, task in tasks.items()}


async def test_every_canonical_solution_passes(grader: Grader, rows: list[dict[str, Any]]) -> None:
    """Half of them as a base model continues the prompt, half as a chat model writes a module."""
    pairs = [
        (row, row["canonical_solution"] if i % 2 else row["prompt"] + row["canonical_solution"])
        for i, row in enumerate(rows)
    ]
    grades = await all_graded(grader, pairs)
    assert len(grades) == 164
    assert {name: grade.reason for name, grade in grades.items() if not grade.correct} == {}


async def test_every_empty_solution_fails(grader: Grader, rows: list[dict[str, Any]]) -> None:
    grades = await all_graded(grader, [(row, "    return None\n") for row in rows])
    assert [name for name, grade in grades.items() if grade.correct or not grade.reason] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_changed_operator_fails(
    grader: Grader, rows: list[dict[str, Any]], step: int
) -> None:
    """A mutant may hang, so each is given little time; the first that is caught will do."""

    async def caught(row: dict[str, Any]) -> bool:
        program = row["prompt"] + row["canonical_solution"]
        for mutant in islice(mutants(program, row["entry_point"]), MUTANTS):
            if not (await graded(grader, row, mutant, case_s=1.0)).correct:
                return True
        return False

    async with asyncio.TaskGroup() as group:
        tasks = {row["task_id"]: group.create_task(caught(row)) for row in rows[::step]}
    assert [name for name, task in tasks.items() if not task.result()] == []
