"""Delethink: chunks, carried tokens, answers across a boundary, tools, and the loss per trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply
from agentrl.errors import EngineError, UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Limits
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.delethink import Delethink
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=1, seed=0)


async def thought(world: Any, plan: Delethink, tokens: Sequence[int], **limits: Any) -> Trajectory:
    """An engine that writes `tokens` on, wherever budgets and stop strings cut it."""

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        place = sum(map(len, engine.generated))
        part = list(tokens[place : place + sampling.max_tokens])
        return Reply(part, [-0.5] * len(part))

    engine = world.script(write)
    given = {"turn_tokens": 30_000, "max_tokens": 60_000, "max_parse_errors": 0} | limits
    parts = world.parts(engine, **given)
    services = Services(episodes=Episodes(parts, seed=1, retries=0))
    return (await plan.collect(world.task, services, CTX)).trajectories[0]


def letters(n: int, end: int | None = None) -> list[int]:
    """Ids that tell their place: a walk through the printable bytes."""
    ids = [97 + (i * 7 + i // 26) % 26 for i in range(n)]
    return ids if end is None else [*ids[:-1], end]


@pytest.mark.parametrize(
    ("n", "rows"),
    [
        (10_000, [8192, 1808]),
        (20_480, [8192, 4096, 4096, 4096]),
        (30_000, [8192, 4096, 4096, 4096, 4096]),
    ],
)
async def test_rows_of_the_published_chunks(world: Any, n: int, rows: list[int]) -> None:
    """C=8192, m=4096, I=5: the budget is 24,576."""
    plan = Delethink(group_size=1)
    written = letters(n, end=world.renderer.stop_ids[0])
    found = await thought(world, plan, written)
    assert [row.n_sampled for row in found.rows] == rows
    assert plan.budget == 24_576
    over = n > plan.budget
    assert found.stop is (StopReason.MAX_TOKENS if over else StopReason.TERMINATED)
    query = found.rows[0].segments[0].token_ids.tolist()
    so_far = 8192
    for row in found.rows[1:]:
        carried = row.segments[0].token_ids.tolist()
        assert carried == [*query, *written[:100], *written[so_far - 3996 : so_far]]
        assert not row.mask[: len(carried)].any()
        assert row.token_ids[len(carried) :].tolist() == written[so_far:][: row.n_sampled]
        so_far += row.n_sampled


@pytest.mark.parametrize(
    ("plan", "rows"),
    [
        (Delethink(group_size=1, chunk=10, carry=4, keep_head=1, chunks=4), [10, 6, 4]),
        (Delethink(group_size=1, chunk=10, carry=6, keep_head=1, chunks=4), [10, 4, 4, 2]),
        (Delethink(group_size=1, chunk=10, carry=4, keep_head=1, chunks=2), [10, 6]),
    ],
)
async def test_turned_constants(world: Any, plan: Delethink, rows: list[int]) -> None:
    """20 tokens; with a carry of 4 a later row has 6 new ones, with 6 it has 4."""
    written = letters(20, end=world.renderer.stop_ids[0])
    found = await thought(world, plan, written)
    assert [row.n_sampled for row in found.rows] == rows


async def test_an_answer_may_straddle_a_boundary(world: Any) -> None:
    answer = world.renderer.demo("because <answer>4</answer>", ended=True).tolist()
    plan = Delethink(group_size=1, chunk=9, carry=4, keep_head=2, chunks=3)
    found = await thought(world, plan, answer)
    assert len(answer) == 12
    assert [row.n_sampled for row in found.rows] == [9, 3]
    assert found.messages[-1].content == "because <answer>4</answer>"
    assert found.rewards == {"env": 1.0}


async def test_a_call_across_a_boundary_and_its_observation(world: Any) -> None:
    """The call is cut in two; its observation overfills the chunk, so the next turn starts one."""
    call = world.renderer.demo("<code>1+1</code>").tolist()
    answer = world.renderer.demo("<answer>4</answer>", ended=True).tolist()
    plan = Delethink(group_size=1, chunk=4, carry=2, keep_head=1, chunks=9)
    found = await thought(world, plan, [*call, *answer])
    assert world.log.code == ["1+1"]
    assert found.rewards == {"env": 1.0}
    assert [row.n_sampled for row in found.rows] == [4, 1, 2, 2]
    assert found.n_turns == 2
    seen = [int(s.origin) for s in found.rows[1].segments]
    assert seen == [Origin.PROMPT, Origin.MODEL, Origin.OBSERVATION]
    query = found.rows[0].segments[0].token_ids.tolist()
    response = [*call, *found.rows[1].segments[2].token_ids.tolist()]
    assert found.rows[2].segments[0].token_ids.tolist() == [*query, response[0], response[-1]]


async def test_siblings_are_in_order_and_failed_ones_are_played_again(world: Any) -> None:
    failed = 0

    def once(row: Any, sampling: Sampling, index: int) -> Reply:
        nonlocal failed
        failed += index == 1
        if index == 1:
            raise EngineError("gone")
        return Reply([world.renderer.stop_ids[0]], [-0.5])

    parts = world.parts(world.script(once), turn_tokens=99)
    services = Services(episodes=Episodes(parts, seed=1))
    plan = Delethink(group_size=3, chunk=9, carry=4, keep_head=2)
    group = await plan.collect(world.task, services, CTX)
    assert [t.sibling for t in group.trajectories] == [0, 1, 2]
    assert [t.error for t in group.trajectories] == [None] * 3
    assert failed == 1


async def test_limits_below_a_chunk_are_refused(world: Any) -> None:
    plan = Delethink(group_size=1, chunk=60, carry=4, keep_head=2)
    for limit in ({"turn_tokens": 60}, {"max_tokens": 60}):
        with pytest.raises(ExceptionGroup) as caught:
            await thought(world, plan, letters(99), **limit)
        assert caught.group_contains(UserError, match=f"env.{next(iter(limit))}")
    for short in (Limits(turn_tokens=60), Limits(max_tokens=60)):
        with pytest.raises(UserError, match="chunks of 60"):
            Delethink(chunk=60, carry=4, keep_head=2, limits=short)
    for wrong in ({"carry": 9}, {"keep_head": 4}, {"chunks": 0}):
        with pytest.raises(UserError):
            Delethink(**{"chunk": 9, "carry": 4, "keep_head": 2, **wrong})


def test_the_loss_is_a_mean_over_traces() -> None:
    """Traces of 6 + 4 and of 5 tokens: rows .6, .4 and 1, the mean 1.0; over rows it were .667."""

    def trace(sibling: int, *news: int) -> Trajectory:
        rows: list[Transcript] = []
        for n in news:
            row = Transcript().append(Segment(Origin.PROMPT, [1, 2]))
            rows.append(row.append(Segment(Origin.MODEL, [3] * n, [-1.0] * n, version=0)))
        return Trajectory(f"0/t/{sibling}", Task("t", "?", "1"), sibling, tuple(rows), (),
                          StopReason.TERMINATED, reward=1.0)  # fmt: skip

    batch = make_batch([Group(Task("t", "?", "1"), (trace(0, 6, 4), trace(1, 5)))], pad_id=0)
    aggregate = Aggregate("seq-mean-token-mean")
    ones = batch.mask.float()
    assert float(aggregate(ones, batch)) == pytest.approx(1.0)
    rows = [float(aggregate(ones * (torch.arange(3) == i)[:, None], batch)) * 2 for i in range(3)]
    assert rows == pytest.approx([0.6, 0.4, 1.0])
    assert sum(rows) / 3 == pytest.approx(2 / 3)
    weights = replace(batch, n_sequences=3)
    assert not math.isclose(float(aggregate(ones, weights)), 1.0)
