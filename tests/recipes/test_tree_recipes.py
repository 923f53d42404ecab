"""The constants of ARPO's and AEPO's recipes, turned: the tree, the advantage and the clip follow.

Plans are built as a run builds them, from the recipe's own words, and play a scripted policy in an
environment whose tool is free.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.algo.shared_prefix import mean_over_sharers, token_owners
from agentrl.chat.protocols.retool import ReTool
from agentrl.compose import compose
from agentrl.config import RunConfig
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply, ScriptedEngine
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.plugins import build
from agentrl.points import Ctx, Services
from agentrl.rollout.limits import Limits
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Parts
from agentrl.rollout.slots import Slots
from agentrl.train import setup
from agentrl.train.assemble import make_update
from agentrl.trajectory import Group
from agentrl.types import Message, Task, ToolResult
from agentrl_envs.tool_env import ToolEnv

CTX = Ctx(step=0, total_steps=10, seed=0)
CALL = "<code>go</code>"


class Free(ToolEnv):
    """Answers every call."""

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if not action.tool_calls:
            return StepResult((), 1.0, True, False, StepInfo(answer=action.text))
        call = action.tool_calls[0]
        shown = Message("tool", "ok", call_id=call.id, name=call.name)
        info = StepInfo(results=(ToolResult(call.id, "ok"),))
        return StepResult((shown,), 0.0, False, False, info)

    async def judge(self, action: Action) -> StepResult:
        raise AssertionError


@pytest.fixture(scope="module")
def chat() -> Any:
    config = compose(["env=retool_math"])
    return setup.open_chat(config, setup.env_factory(config.env)())


def grown(chat: Any, config: RunConfig, *shares: float) -> Group:
    """The group that the recipe's plan makes of turns with these entropies, as shares of ln V."""
    renderer, tokenizer = chat.renderer, chat.tokenizer

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        n = tokenizer.decode(np.asarray(row)).count("</code>")
        last = n == len(shares) - 1
        ids = renderer.demo("done" if last else CALL, ended=last).tolist()
        h = shares[n] * math.log(tokenizer.vocab_size)
        return Reply(ids, [-0.5] * len(ids), [h] * len(ids))

    engine = ScriptedEngine(write, tokenizer=tokenizer, end_id=renderer.stop_ids[0])
    parts = Parts(Free, engine, renderer, ReTool(fence=False), Limits(), Sampling(1), Slots(64))
    rollout = config.rollout
    plan = build("plan", rollout.plan, group_size=rollout.group_size, renderer=renderer)
    services = Services(Episodes(parts, seed=config.seed))
    return asyncio.run(plan.collect(Task("t", "?", "1"), services, CTX))


def branches(group: Group) -> int:
    return sum(t.parent is not None for t in group.trajectories)


TURNED = [
    # recipe, words, entropies by turn, branches as it is, branches turned
    ("arpo", "rollout.plan.tau=0.5", (0.2, 0.1), 4, 0),  # P = 0.48
    ("arpo", "rollout.plan.alpha=0.46", (0.2, 0.1), 4, 0),  # 0.44
    ("arpo", "rollout.plan.beta=1.0", (0.2, 0.1), 4, 0),  # 0.4
    ("arpo", "rollout.plan.initial=7", (0.2, 0.1), 4, 1),
    ("arpo", "rollout.plan.initial=2", (0.2, 0.1), 4, 4),  # 2 roots, 2 copies each
    ("arpo", "rollout.group_size=6", (0.2, 0.1), 4, 3),
    ("arpo", "rollout.plan.tau=0.5", (0.1, 0.2), 4, 4),  # 0.52
    ("arpo_hard", "rollout.plan.tau=0.5", (0.2, 0.1), 4, 0),
    ("arpo_fixed", "rollout.plan.probability=0", (0.1, 0.1), 4, 0),
    ("arpo_fixed", "rollout.plan.probability=1", (0.1, 0.1), 4, 4),
    ("aepo", "rollout.plan.tau=0.5", (0.2, 0.1), 3, 0),
    ("aepo", "rollout.plan.sensitivity=10", (0.2, 0.1), 3, 2),  # 8 sigmoid(1) = 5.85
    ("aepo", "rollout.plan.sensitivity=0", (0.4, 0.35), 3, 3),
]


@pytest.mark.parametrize(("recipe_name", "word", "shares", "before", "after"), TURNED)
def test_a_turned_constant_moves_the_branches(
    lab: Any,
    chat: Any,
    recipe_name: str,
    word: str,
    shares: tuple[float, ...],
    before: int,
    after: int,
) -> None:
    assert branches(grown(chat, lab.config(recipe_name), *shares)) == before
    assert branches(grown(chat, lab.config(recipe_name, word), *shares)) == after


def test_copies_fill_the_places_of_fewer_paths(lab: Any, chat: Any) -> None:
    """4 places: two parents with 2 copies each, four with 1."""

    def parents(*words: str) -> int:
        group = grown(chat, lab.config("arpo", *words), 0.2, 0.1)
        return len({t.parent for t in group.trajectories if t.parent is not None})

    assert (parents(), parents("rollout.plan.copies=1")) == (2, 4)


def test_the_penalty_ends_a_row_of_branchings(lab: Any, chat: Any) -> None:
    """One root, P = 0.5 after 2 results: one in a row leaves 0.475 > 0.45, or 0.4 at 0.2."""
    words = ("rollout.plan.initial=1", "rollout.group_size=16", "rollout.plan.copies=1")

    def levels(*more: str) -> int:
        group = grown(chat, lab.config("aepo", *words, *more), 0.2, 0.2, 0.2)
        return len({t.fork_tokens for t in group.trajectories if t.parent == "0/t/0"})

    assert (levels(), levels("rollout.plan.penalty=0.2")) == (2, 1)


def test_the_code_form_draws_with_its_probability(lab: Any, chat: Any) -> None:
    """At a first call dH = 0: over 200 roots within 4 deviations of one half, and of 0.2."""
    for probability in (0.5, 0.2):
        words = (f"rollout.plan.probability={probability}", "rollout.group_size=400")
        n = branches(grown(chat, lab.config("arpo_code", *words), 0.1, 0.9))
        assert abs(n - 200 * probability) < 4 * (200 * probability * (1 - probability)) ** 0.5


def test_the_weight_lets_a_rise_branch_more_often(lab: Any, chat: Any) -> None:
    """A second call of 4 tokens at 0.8 instead of 0.1: dH = 2.8, and 0.5 + 0.2 x 2.8 is above 1."""
    words = ("rollout.plan.probability=0.0", "rollout.plan.initial=3", "rollout.group_size=6")
    n_tokens = len(chat.renderer.demo(CALL))
    weight = 1 / (0.7 * n_tokens)
    grew = grown(
        chat, lab.config("arpo_code", *words, f"rollout.plan.weight={weight}"), 0.1, 0.8, 0.0
    )
    assert branches(grew) == 3
    assert (
        branches(
            grown(chat, lab.config("arpo_code", *words, "rollout.plan.weight=0"), 0.1, 0.8, 0.0)
        )
        == 0
    )


def test_hard_advantages_are_means_over_sharers(lab: Any) -> None:
    """Rows 0 and 1 of a group share a prompt and a token; soft leaves each its own."""
    for name, word in (("arpo_hard", "soft"), ("arpo", "hard")):
        before, after = lab.config(name), lab.config(name, f"algo.advantage.mode={word}")
        batch = lab.batch(before)
        ids, parents, forks = batch.token_ids.clone(), batch.parents.clone(), batch.forks.clone()
        ids[1, :3] = ids[0, :3]
        parents[1], forks[1] = 0, 3
        batch = replace(batch, token_ids=ids, parents=parents, forks=forks)
        assert int((token_owners(batch) == 0)[1].sum()) == 3
        own = make_update(before if word == "hard" else after).advantage(batch, CTX)
        hard = make_update(after if word == "hard" else before).advantage(batch, CTX)
        assert isinstance(own, torch.Tensor)
        assert isinstance(hard, torch.Tensor)
        shared = float(own[:2, 2].mean())
        assert hard[:2, 2].tolist() == pytest.approx([shared, shared], abs=1e-5)
        torch.testing.assert_close(hard[:, 3:], own[:, 3:])
        assert float((own[0, 2] - own[1, 2]).abs()) > 0.1
        scalars = own.gather(1, batch.mask.int().argmax(1)[:, None])[:, 0]
        torch.testing.assert_close(mean_over_sharers(scalars, batch) * batch.mask, hard)


def test_aepos_weight_scales_the_part_that_entropies_add(lab: Any) -> None:
    before, after = lab.config("aepo"), lab.config("aepo", "algo.advantage.weight=0.4")
    none = lab.config("aepo", "algo.advantage.weight=0")
    batch = lab.batch(before)
    batch = replace(batch, entropies=lab.entropies(batch))
    a0, a1, a2 = (make_update(c).advantage(batch, CTX) for c in (none, before, after))
    assert float((a1 - a0).abs().max()) > 0.05
    torch.testing.assert_close(a2 - a0, 2 * (a1 - a0))


def test_aepos_clip_keeps_the_slope_of_its_bound(lab: Any) -> None:
    """Above 1 + high the slope is -A (1 + high), below 1 - low it is 0; elsewhere -A rho."""
    batch = lab.batch(lab.config("grpo"))
    ratio = (lab.now(batch) - batch.old_logprobs).exp()
    advantages = torch.ones_like(ratio) * batch.mask
    for words, high in (((), 0.2), (("algo.loss.high=0.5",), 0.5)):
        now = lab.now(batch).requires_grad_()
        losses, _ = make_update(lab.config("aepo", *words)).loss(
            now, batch.old_logprobs, advantages, batch.mask
        )
        (slope,) = torch.autograd.grad(losses[batch.mask].sum(), now)
        wanted = -ratio.clamp(max=1 + high) * batch.mask
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-6)
    assert bool((ratio[batch.mask] > 1.5).any())
