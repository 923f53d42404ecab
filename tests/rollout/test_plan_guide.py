"""Guide's plan: k more with a hint where k failed, trained as if nobody had helped."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Clip
from agentrl.algo.offpolicy import OFF, denominators
from agentrl.algo.types import RowContext
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.guide import Guide
from agentrl.rollout.plans.stage import ExpertTurn
from agentrl.trajectory import Group

CTX = Ctx(step=0, total_steps=4, seed=1)


def turn(text: str, seed: int) -> str:
    return "<answer>4</answer>" if "two and two" in text else "<answer>5</answer>"


async def collected(world: Any, served: Any, plan: Guide, turn: Any = turn, **meta: Any) -> Group:
    task = replace(world.task, metadata=meta)
    return await plan.collect(task, served(turn), CTX)


async def test_a_failed_group_is_helped_and_one_that_is_not_is_left(
    world: Any, served: Any
) -> None:
    group = await collected(world, served, Guide(group_size=3), hint="add two and two")
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3, 4, 5]
    assert [t.rewards for t in group.trajectories] == [{"env": 0.0}] * 3 + [
        {"env": 1.0, "guide/hinted": 1.0}
    ] * 3
    group = await collected(
        world, served, Guide(group_size=3), lambda *_: "<answer>4</answer>", hint="two and two"
    )
    assert len(group.trajectories) == 3
    assert len((await collected(world, served, Guide(group_size=3))).trajectories) == 3


async def test_hinted_rows_are_trained_under_the_plain_prompt(world: Any, served: Any) -> None:
    """The batch holds the ids that an unhinted episode with that answer would have."""
    group = await collected(world, served, Guide(group_size=2), hint="two and two")
    plain = await collected(
        world, served, Guide(group_size=2), lambda *_: "<answer>4</answer>", hint="x"
    )
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    alone = make_batch([rewarded(plain, summed(plain))], pad_id=0)
    assert batch.contexts.tolist() == [RowContext.SAME] * 2 + [RowContext.BEHAVIOUR] * 2
    assert batch.token_ids[2].tolist() == alone.token_ids[0].tolist()
    assert batch.mask[2].tolist() == alone.mask[0].tolist()
    hinted = group.trajectories[2].rows[0]
    assert batch.behaviour_logprobs[2][batch.mask[2]].tolist() == pytest.approx(
        hinted.logprobs[hinted.mask].tolist()
    )
    assert "two and two" in world.renderer.tokenizer.decode(hinted.segments[0].token_ids)


async def test_the_ratio_is_over_what_was_sampled(world: Any, served: Any) -> None:
    """log pi_theta = log pi_old(hinted) - .5: rho .60653; without a hint the learner's own is 1."""
    group = await collected(world, served, Guide(group_size=1), hint="two and two")
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    learner = batch.behaviour_logprobs - 0.5
    old = denominators(batch, learner, OFF).old
    losses, _ = Clip(low=0.5)(learner, old, -batch.mask.float(), batch.mask)
    for row, wanted in ((0, 1.0), (1, 0.60653)):
        assert losses[row][batch.mask[row]].tolist() == pytest.approx(
            [wanted] * int(batch.mask[row].sum()), abs=1e-5
        )
    assert math.exp(-0.5) == pytest.approx(0.60653, abs=1e-5)


async def test_the_expert_hints_with_all_but_its_answer(world: Any, served: Any) -> None:
    seen: list[str] = []

    def reading(text: str, seed: int) -> str:
        seen.append(text)
        return "<answer>5</answer>"

    def expert(*texts: str) -> Any:
        return lambda *_: [ExpertTurn(text, world.renderer.demo(text)) for text in texts]

    plan = Guide(group_size=1, hint="expert", template=" [{hint}]", expert=expert("a", "b", "4"))
    await collected(world, served, plan, reading)
    assert "Q [a\nb]" in seen[1]
    alone = Guide(group_size=1, hint="expert", expert=expert("4"))
    assert len((await collected(world, served, alone)).trajectories) == 1


def test_what_cannot_hint_is_refused() -> None:
    with pytest.raises(UserError, match="needs an env with an expert"):
        Guide(hint="expert")
    with pytest.raises(UserError, match=r"no \{hint\}"):
        Guide(template="hint")
