"""ARPO's branches on the real sandbox: each goes on from a copy of the interpreter, and only of that."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply
from agentrl.errors import SandboxUnavailable, UserError
from agentrl.points import Ctx, Services
from agentrl.registry import resolve
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Names
from agentrl.rollout.plans.arpo import Arpo
from agentrl.sandbox import SandboxPool
from agentrl.transcript import Origin
from agentrl.types import Task
from agentrl_envs.retool_math import RetoolMath

pytestmark = pytest.mark.asyncio(loop_scope="module")
CTX = Ctx(step=0, total_steps=1, seed=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local_pool() -> AsyncIterator[SandboxPool]:
    pool = resolve("sandbox", "local")()
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    yield pool
    await pool.close()


def diarist(world: Any) -> Any:
    """Every turn appends a number of its own to a list, a file and a module, and prints all three.

    Entropies rise from turn to turn, so that every path branches while there are places.
    """
    log_v = math.log(world.renderer.tokenizer.vocab_size)

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        text = world.renderer.tokenizer.decode(np.asarray(row))
        turn, mine = text.count("</code>"), sampling.seed % 100_000
        if turn == 0:
            code = "import math\nd=[]\nmath.mine=[]"
        elif turn < 4:
            code = (
                f"d.append({mine});math.mine.append({mine})\n"
                f"open('f','a').write(' {mine}')\n"
                "print(d,math.mine,open('f').read().split())"
            )
        else:
            code = ""
        said = f"<code>{code}</code>" if code else "<answer>1</answer>"
        ids = world.renderer.demo(said, ended=not code).tolist()
        return Reply(ids, [-0.5] * len(ids), [0.1 * turn * log_v] * len(ids))

    return world.script(write)


async def test_siblings_never_see_each_others_state(world: Any, local_pool: SandboxPool) -> None:
    """What a path reads back is what the turns of its own history wrote, in order, three times."""
    parts = world.parts(
        diarist(world), lambda: RetoolMath(style="terse"), pool=local_pool, observation_tokens=4000
    )
    services = Services(Episodes(parts, seed=3))
    plan = Arpo(group_size=6, initial=2, copies=1, renderer=world.renderer)
    group = await plan.collect(Task("t", "1", "1", {"family": "none"}), services, CTX)
    assert [t.error for t in group.trajectories] == [None] * 6
    assert sum(t.parent is not None for t in group.trajectories) == 4
    seen: list[tuple[str, ...]] = []
    for t in group.trajectories:
        assert len(t.calls) == 4
        written: list[str] = []
        for call in t.calls[1:]:
            written += re.findall(r"d\.append\((\d+)\)", call.arguments)
            read = re.findall(r"\d+", call.content)
            assert read == written * 3, (t.uid, call.content)
        seen.append(tuple(written))
    assert len(set(seen)) == 6, "every path went its own way"
    # 4 calls of each root; branches after the first result run 3 of their own, after the second 2.
    assert sum(t.n_executed for t in group.trajectories) < 6 * 4
    for t in group.trajectories:
        shared = t.rows[0].fork(t.fork_tokens or 0).segments
        answered = sum(segment.origin is Origin.OBSERVATION for segment in shared)
        assert t.n_executed == 4 - answered


async def test_trees_share_few_sandboxes_without_waiting_for_each_other(world: Any) -> None:
    """2 trees of 4 paths and 4 sandboxes: one tree at a time.

    The first root of each writes slowly. Together, the other roots would take all 4 sandboxes and
    then wait, before they branch, for the first ones, which would find none left.
    """
    pool = resolve("sandbox", "local")(max_sessions=4, wait_s=30.0)
    tasks = [Task(name, "1", "1", {"family": "none"}) for name in "ab"]
    slow = {Names.of(3, task, CTX).seeds(0).turn(0) for task in tasks}
    engine = diarist(world)
    generate = engine.generate

    async def slowly(token_ids: Any, sampling: Sampling) -> Any:
        if sampling.seed in slow:
            await asyncio.sleep(0.5)
        return await generate(token_ids, sampling)

    engine.generate = slowly
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    try:
        parts = world.parts(
            engine, lambda: RetoolMath(style="terse"), pool=pool, observation_tokens=4000
        )
        services = Services(Episodes(parts, seed=3), sandbox=pool)
        plan = Arpo(group_size=4, initial=3, renderer=world.renderer)
        async with asyncio.TaskGroup() as running:
            groups = [running.create_task(plan.collect(t, services, CTX)) for t in tasks]
        assert [t.error for g in groups for t in g.result().trajectories] == [None] * 8
        assert pool.statistics().refused == 0
        with pytest.raises(UserError, match=r"there are 4; set sandbox\.max_sessions to 5 or more"):
            await Arpo(group_size=5, renderer=world.renderer).collect(tasks[0], services, CTX)
    finally:
        await pool.close()
