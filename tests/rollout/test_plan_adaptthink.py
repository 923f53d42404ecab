"""AdaptThink's plan: half a group is made not to think, with the probability of being made to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agentrl.algo.batch import make_batch
from agentrl.algo.losses import SequenceRatio
from agentrl.algo.offpolicy import OFF, denominators
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services
from agentrl.rewards.adaptthink import AdaptThink as Shaper
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.adaptthink import AdaptThink
from agentrl.trajectory import Group, StopReason
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=4, seed=1)


def turn(text: str, seed: int) -> str:
    """Thinking ends in the right answer, its absence in a wrong one."""
    return "2+2</think><answer>4</answer>" if text.endswith("Hm") else "<answer>5</answer>"


def plan(world: Any, **options: Any) -> AdaptThink:
    given = {"thinking": "Hm", "group_size": 4} | options
    return AdaptThink(world.renderer, **given)


async def collected(world: Any, served: Any, **options: Any) -> Group:
    services: Services = served(turn)
    return await plan(world, **options).collect(world.task, services, CTX)


async def test_both_ways_start_as_they_are_made_to(world: Any, served: Any) -> None:
    group = await collected(world, served)
    starts = [t.rows[0].segments[1] for t in group.trajectories]
    texts = [world.renderer.tokenizer.decode(s.token_ids) for s in starts]
    assert texts == ["</think>", "</think>", "Hm", "Hm"]
    half = math.log(0.5)
    for start in starts:
        assert start.origin is Origin.FORCED
        assert start.logprobs.tolist() == pytest.approx([half, *[0.0] * (len(start) - 1)])
    assert [t.rewards["env"] for t in group.trajectories] == [0.0, 0.0, 1.0, 1.0]
    assert [t.messages[-1].content[:8] for t in group.trajectories[:2]] == ["</think>"] * 2


async def test_the_share_is_the_declared_probability(world: Any, served: Any) -> None:
    group = await collected(world, served, share=0.25)
    first = [float(t.rows[0].segments[1].logprobs[0]) for t in group.trajectories]
    assert first == pytest.approx([math.log(0.25), *[math.log(0.75)] * 3])


async def test_no_thinking_has_a_budget_of_its_own(world: Any, served: Any) -> None:
    group = await collected(world, served, no_thinking_tokens=3)
    short, long = group.trajectories[0], group.trajectories[2]
    assert (short.n_sampled, short.stop) == (3, StopReason.MAX_TOKENS)
    assert (long.n_sampled > 8, long.stop) == (True, StopReason.TERMINATED)


async def test_the_reward_and_the_ratio_of_the_paper(world: Any, served: Any) -> None:
    """ref .75: NoThinking wrong -.70, thinking right .25; the ratio's first token is over log .5."""
    group = await collected(world, served)
    shaped = Shaper(reference=0.75)(group, summed(group), HistoryStore(), CTX)
    assert shaped.rewards_G.tolist() == pytest.approx([-0.70, -0.70, 0.25, 0.25])
    batch = make_batch([rewarded(group, shaped)], pad_id=0)
    learner = batch.behaviour_logprobs - 0.25
    old = denominators(batch, learner, OFF).old
    at = int(batch.mask[0].nonzero()[0])
    assert float(old[0, at]) == pytest.approx(math.log(0.5))
    assert float(old[0, at + 1]) == pytest.approx(float(learner[0, at + 1]))
    advantages = batch.rewards[:, None] * batch.mask
    losses, _ = SequenceRatio(mean=True, low=0.9, high=0.9)(learner, old, advantages, batch.mask)
    n = int(batch.mask[0].sum())
    assert float(losses[0, at]) == pytest.approx(0.70 * math.exp(-0.25 / n))


async def test_a_sibling_the_world_failed_is_played_again(world: Any, served: Any) -> None:
    failures = iter([True])

    async def reset(task: Any) -> None:
        if next(failures, False):
            raise ConnectionError("gone")

    services: Services = served(lambda *_: "x", make_env=world.bare(reset=reset), max_turns=1)
    group = await plan(world).collect(world.task, services, CTX)
    assert [t.error for t in group.trajectories] == [None] * 4
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3]


def test_a_group_needs_both_ways(world: Any) -> None:
    for share in (0.0, 1.0, 0.1):
        with pytest.raises(UserError, match="leaves one way untried"):
            plan(world, share=share)
    with pytest.raises(UserError, match="at least one token"):
        plan(world, thinking="")
