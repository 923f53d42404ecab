"""RGR-GRPO's plan: the best answer that fails is written again, and trained as foreign text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agentrl.algo.batch import make_batch
from agentrl.algo.types import RowContext
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.rgr import Rgr
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=4, seed=1)
RUBRIC = [{"criterion": "says four", "points": 2}]


async def rubric(trajectory: Trajectory, services: Services) -> Mapping[str, float]:
    """One tenth per digit of the answer; the right one is whole."""
    text = trajectory.messages[-1].content
    return {"rubric": 1.0 if "4" in text else 0.1 * sum(c.isdigit() for c in text)}


def turn(text: str, seed: int) -> str:
    if "<answer>555</answer>" in text and "says four" in text:
        return "<answer>4</answer>"
    return f"<answer>{'5' * turn.lengths.pop(0)}</answer>"  # type: ignore[attr-defined]


async def collected(world: Any, served: Any, *lengths: int, **options: Any) -> Group:
    turn.lengths = list(lengths)  # type: ignore[attr-defined]
    task = replace(world.task, metadata={"rubric": RUBRIC})
    plan = Rgr(**({"group_size": len(lengths) + 1} | options))
    return await plan.collect(task, served(turn, rewards=(rubric,)), CTX)


async def test_the_best_failing_answer_is_refined(world: Any, served: Any) -> None:
    """Lengths 1, 3, 2: the second scored .3, and its refinement is right."""
    group = await collected(world, served, 1, 3, 2)
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3]
    assert [t.rewards["env"] for t in group.trajectories] == [0.0, 0.0, 0.0, 1.0]
    assert all("rubric" not in t.rewards for t in group.trajectories), "looked at, not yet scored"


async def test_it_is_foreign_text_under_the_plain_prompt(world: Any, served: Any) -> None:
    group = await collected(world, served, 1, 3, 2)
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    assert batch.contexts.tolist() == [RowContext.SAME] * 3 + [RowContext.BEHAVIOUR]
    answer = world.renderer.demo("<answer>4</answer>", ended=True).tolist()
    n = int(batch.mask[0].nonzero()[0])
    row = batch.token_ids[3][batch.attention_mask[3]].tolist()
    assert row == [*batch.token_ids[0, :n].tolist(), *answer]
    assert batch.behaviour_logprobs[3].tolist() == [0.0] * len(batch.token_ids[3])
    assert (batch.origins[3][batch.mask[3]] == Origin.FORCED).all()
    assert int(batch.mask[3].sum()) == len(answer)


async def test_nothing_that_fails_leaves_nothing_to_refine(world: Any, served: Any) -> None:
    services = served(lambda *_: "<answer>4</answer>")
    group = await Rgr(group_size=3, component="env").collect(world.task, services, CTX)
    assert [t.rewards["env"] for t in group.trajectories] == [1.0] * 3
    assert all(t.rows[0].train_context is None for t in group.trajectories)


async def test_another_component_ranks_otherwise(world: Any, served: Any) -> None:
    """By `env` all fail alike, and the first is refined: not the one that leads to the answer."""
    group = await collected(world, served, 1, 3, 2, 2, component="env", group_size=4)
    assert [t.correct for t in group.trajectories] == [False] * 4


async def test_what_cannot_be_ranked_is_said(world: Any, served: Any) -> None:
    with pytest.raises(UserError, match="which nothing records"):
        await Rgr(component="style").collect(world.task, served(lambda *_: "x"), CTX)
    with pytest.raises(UserError, match="group of two"):
        Rgr(group_size=1)
