"""Tables, SQL and code through the real rollout loop on the real sandbox, and branched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import agentrl
from agentrl.chat.nano import NanoRenderer
from agentrl.chat.protocols.hermes import Hermes
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.context import Context
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.env import Forkable
from agentrl.points import Services
from agentrl.rewards.code_tests import CodeTests
from agentrl.rewards.tattoo import Tattoo
from agentrl.rollout.limits import Lease, Limits
from agentrl.rollout.loop import run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.slots import Slots
from agentrl.sandbox import SandboxPool
from agentrl.trajectory import StopReason, Trajectory
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.code_tests.env import CodeTestsEnv
from agentrl_envs.sql_qa.env import SqlQA
from agentrl_envs.tables.env import Tables
from agentrl_envs.tool_env import ToolEnv

pytestmark = pytest.mark.asyncio(loop_scope="module")

NANO = Path(agentrl.__file__).parent / "_assets" / "nano"
MAKERS: Sequence[Callable[[], Any]] = (
    Tables,
    lambda: Tables(tools="python", finish=True),
    lambda: Tables(role="verify"),
    lambda: SqlQA(finish=True),
    lambda: CodeTestsEnv(hidden=2, forms=("function",)),
)


async def sampled(
    task: Task, make_env: Callable[[], Any], pool: SandboxPool, turns: Sequence[str]
) -> Trajectory:
    """An episode whose turns are sampled as written."""
    renderer = NanoRenderer(load_tokenizer(str(NANO)))
    parts = Parts(
        make_env=make_env,
        engine=ScriptedEngine(
            lambda ids, sampling, index: renderer.demo(turns[index], ended=True).tolist(),
            tokenizer=renderer.tokenizer,
        ),
        renderer=renderer,
        protocol=Hermes(),
        limits=Limits(turn_tokens=4096, max_tokens=16_000),
        sampling=Sampling(max_tokens=1),
        tool_slots=Slots(4),
        pool=pool,
    )
    return await run_episode(task, parts, Names(0, 0, task))


@pytest.mark.parametrize("which", range(len(MAKERS)))
async def test_experts_are_played(local_pool: SandboxPool, which: int) -> None:
    env = MAKERS[which]()
    for task in islice(env.tasks("train", seed=which), 3):
        turns = list(env.expert(task, seed=0))
        played = await sampled(task, MAKERS[which], local_pool, turns)
        assert played.error is None, played.error
        assert (played.stop, played.rewards["env"]) == (StopReason.TERMINATED, 1.0), task.id
        assert all(call.error is None for call in played.calls)
        assert len(played.rows) == 1


async def test_the_reward_function_agrees_with_the_environment(local_pool: SandboxPool) -> None:
    env = CodeTestsEnv(hidden=2, forms=("function",))
    (task,) = islice(env.tasks("train", seed=1), 1)
    services = replace(Services(episodes=None), sandbox=local_pool)  # type: ignore[arg-type]
    right = list(env.expert(task, seed=0))
    for turns, reward in ((right, 1.0), (["```python\ndef solve(*a): return 'no'\n```"], 0.0)):
        played = await sampled(task, lambda: CodeTestsEnv(), local_pool, turns)
        assert played.rewards["env"] == reward
        assert (await CodeTests()(played, services))["code_tests"] == reward


async def test_a_verifiers_reward_in_its_environment(local_pool: SandboxPool) -> None:
    """A scripted engine is sure of what it writes: s_i = 1 + .5 where the table was used, else 1."""
    env = Tables(role="verify", kinds=("total",), levels=(2,))
    (task,) = islice(env.tasks("train", seed=3), 1)
    asked, labels = env.expert(task, seed=0)
    reward = Tattoo(tokenizer=load_tokenizer(str(NANO)))
    services = Services(episodes=None)  # type: ignore[arg-type]
    make = lambda: Tables(role="verify")  # noqa: E731
    blind = await reward(await sampled(task, make, local_pool, [labels]), services)
    used = await reward(await sampled(task, make, local_pool, [asked, labels]), services)
    assert (blind["tattoo/accuracy"], blind["tattoo/support"]) == (1.0, 0.0)
    assert (used["tattoo/accuracy"], used["tattoo/support"]) == (1.0, 1.0)
    assert used["tattoo"] - blind["tattoo"] == pytest.approx(0.5)


@pytest.mark.parametrize("which", range(len(MAKERS)))
async def test_branches_go_on_by_themselves(local_pool: SandboxPool, which: int) -> None:
    """After the first expert turn two branches end alike, and one's end leaves the other alone."""
    env: ToolEnv = MAKERS[which]()
    (task,) = islice(env.tasks("test", seed=5), 1)  # type: ignore[attr-defined]
    turns = [
        Hermes().parse(ids_array(()), text, turn=i)
        for i, text in enumerate(env.expert(task, seed=0))  # type: ignore[attr-defined]
    ]
    lease = Lease(local_pool)
    await env.open(Context(lease_sandbox=lease.get))
    await env.reset(task, seed=0)
    if len(turns) > 1:
        await env.step(turns[0])
    assert isinstance(env, Forkable)
    leases = await lease.fork(2)
    branches = await env.fork(2)
    for branch, own in zip(branches, leases, strict=True):
        await branch.open(Context(lease_sandbox=own.get))
    for branch in branches:
        for turn in turns[1:] or turns:
            step = await branch.step(turn)
        assert (step.reward, step.terminated) == (1.0, True)
        await branch.close()
    for turn in turns[1:] or turns:
        step = await env.step(turn)
    assert step.reward == 1.0
    for held in (*leases, lease):
        await held.close()
