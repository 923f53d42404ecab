"""LUFFY's plan: the last answer of a group is the expert's, placed for certain, its tools run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentrl.algo.batch import make_batch
from agentrl.algo.losses import Shaped
from agentrl.algo.offpolicy import OFF, denominators
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.luffy import Luffy
from agentrl.rollout.plans.stage import ExpertTurn
from agentrl.trajectory import Group, StopReason
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=4, seed=1)


def plan(world: Any, **options: Any) -> Luffy:
    def expert(task: Any, seed: int) -> list[ExpertTurn]:
        answer = f"<answer>{task.answer}</answer>"
        return [
            ExpertTurn("<code>2+2</code>", world.renderer.demo("<code>2+2</code>")),
            ExpertTurn(answer, world.renderer.demo(answer, ended=True)),
        ]

    return Luffy(**({"group_size": 3, "expert": expert} | options))


async def collected(world: Any, served: Any, **options: Any) -> Group:
    services = served(lambda *_: "<answer>5</answer>")
    return await plan(world, **options).collect(world.task, services, CTX)


async def test_one_of_the_group_is_the_experts(world: Any, served: Any) -> None:
    group = await collected(world, served)
    assert [t.sibling for t in group.trajectories] == [0, 1, 2]
    assert [t.rewards["env"] for t in group.trajectories] == [0.0, 0.0, 1.0]
    shown = group.trajectories[2]
    assert [m.content for m in shown.messages] == [
        "Tools: python", "Q", "<code>2+2</code>", "2+2", "<answer>4</answer>",
    ]  # fmt: skip
    assert (shown.n_turns, shown.n_calls, shown.stop) == (2, 1, StopReason.TERMINATED)
    assert world.log.code == ["2+2"], "the tool really ran"
    forced = [s for s in shown.rows[0].segments if s.origin is Origin.FORCED]
    assert forced[1].token_ids[-1] == world.renderer.stop_ids[0]
    assert not any(s.origin is Origin.MODEL for s in shown.rows[0].segments)


async def test_two_of_the_group_are_the_experts(world: Any, served: Any) -> None:
    group = await collected(world, served, experts=2)
    assert [t.rewards["env"] for t in group.trajectories] == [0.0, 1.0, 1.0]


async def test_its_tokens_are_shaped_and_the_others_clipped(world: Any, served: Any) -> None:
    """p = .2: f = .2 / .3 = .66667, for A = 1 a loss of -f; on-policy tokens have ratio 1."""
    group = await collected(world, served)
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    learner = torch.where(
        batch.behaviour_logprobs == 0, torch.tensor(0.2).log(), batch.behaviour_logprobs
    )
    old = denominators(batch, learner, OFF).old
    losses, metrics = Shaped()(learner, old, batch.mask.float(), batch.mask)
    expert = batch.mask[2]
    assert losses[2][expert].tolist() == pytest.approx([-2 / 3] * int(expert.sum()), abs=1e-5)
    assert losses[0][batch.mask[0]].tolist() == pytest.approx([-1.0] * int(batch.mask[0].sum()))
    assert int(metrics["shaped_share"]) == int(expert.sum())


def test_what_has_no_expert_is_refused(world: Any) -> None:
    with pytest.raises(UserError, match="env with an expert"):
        Luffy()
    with pytest.raises(UserError, match="at most rollout"):
        plan(world, experts=4)
