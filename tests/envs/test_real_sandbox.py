"""The maths environment on the real sandbox: experts, conformance, and GSM8K's annotations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import pytest

from agentrl.chat.protocols.retool import ReTool
from agentrl.context import Context
from agentrl.data.tasks import load_tasks
from agentrl.sandbox import Sandbox, SandboxPool
from agentrl.testing import check_env, check_tool, failures
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.gsm8k import annotation_turns, corrupt_operand, final_turn, reaches_gold
from agentrl_envs.retool_math import RetoolMath
from agentrl_tools.python import PythonTool

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@asynccontextmanager
async def leased(pool: SandboxPool) -> AsyncIterator[Context]:
    """A context with a sandbox of its own."""
    box = await pool.acquire()

    async def lease() -> Sandbox:
        return box

    try:
        yield Context(lease_sandbox=lease)
    finally:
        await box.close()


async def test_the_expert_solves_every_family(local_pool: SandboxPool) -> None:
    env, protocol = RetoolMath(style="terse"), ReTool(fence=False)
    async with leased(local_pool) as ctx:
        await env.open(ctx)
        for task in islice(env.tasks("test", seed=2), 42):
            await env.reset(task, seed=0)
            for i, text in enumerate(env.expert(task, seed=0)):
                step = await env.step(protocol.parse(ids_array(()), text, turn=i))
            assert (step.reward, step.info.answer) == (1.0, task.answer), task.id


async def test_env_and_tool_keep_their_contracts(local_pool: SandboxPool) -> None:
    results = await check_env(lambda: RetoolMath(style="terse"), pool=local_pool)
    assert not failures(results)
    assert {r.name for r in results if (r.detail or "").startswith("skipped")} == set()
    assert not failures(await check_tool(PythonTool()))


async def annotated(pool: SandboxPool, task: Task, turns: list[str]) -> float:
    """Reward of an annotation's turns; the answer comes from the last output alone."""
    env, protocol, told = RetoolMath(max_calls=len(turns)), ReTool(), ""
    async with leased(pool) as ctx:
        await env.open(ctx)
        await env.reset(task, seed=0)
        for i, text in enumerate(turns):
            step = await env.step(protocol.parse(ids_array(()), text, turn=i))
            told += f"<interpreter>{step.observation[0].content}</interpreter>"
        last = protocol.parse(ids_array(()), final_turn(told), turn=len(turns))
        return (await env.step(last)).reward


async def scores(pool: SandboxPool, played: list[tuple[Task, list[str]]]) -> list[float]:
    """Rewards in order, eight episodes at a time."""
    slots = asyncio.Semaphore(8)

    async def one(task: Task, turns: list[str]) -> float:
        async with slots:
            return await annotated(pool, task, turns)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(task, turns)) for task, turns in played]
    return [task.result() for task in running]


async def check_annotations(pool: SandboxPool, tasks: list[Task]) -> None:
    played = [(t, turns) for t in tasks if (turns := annotation_turns(t)) is not None]
    able = [(t, turns) for t, turns in played if reaches_gold(t)]
    rest = [(t, turns) for t, turns in played if not reaches_gold(t)]
    right = await scores(pool, able)
    assert [t.id for (t, _), r in zip(able, right, strict=True) if r != 1.0] == []
    wrong = await scores(pool, rest)
    assert [t.id for (t, _), r in zip(rest, wrong, strict=True) if r != 0.0] == []
    corrupted = await scores(pool, [(t, corrupt_operand(turns, 0)) for t, turns in able])
    assert sum(corrupted) <= 0.01 * len(corrupted)


def published(split: str) -> list[Task]:
    path = DATA / f"gsm8k_{split}.jsonl"
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{path.name}")
    return load_tasks(str(path))


async def test_annotations_of_gsm8k(local_pool: SandboxPool) -> None:
    await check_annotations(local_pool, published("test")[::33])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("split", ["train", "test"])
async def test_annotations_of_all_of_gsm8k(local_pool: SandboxPool, split: str) -> None:
    await check_annotations(local_pool, published(split))
