"""AEPO's rollouts: the probe divides the places, the penalty slows a path that keeps branching."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import SandboxError
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.aepo import Aepo
from agentrl.trajectory import Group
from agentrl.types import Message, Task, ToolResult
from agentrl_envs.tool_env import ToolEnv

CTX = Ctx(step=2, total_steps=5, seed=1)
CALL = "<code>go</code>"


class Steps(ToolEnv):
    """Every call is answered; `lose` names calls at which the world fails."""

    made = 0
    lose: frozenset[int] = frozenset()

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if not action.tool_calls:
            return StepResult((), 1.0, True, False, StepInfo(answer=action.text))
        Steps.made += 1
        if Steps.made in Steps.lose:
            raise SandboxError("gone")
        call = action.tool_calls[0]
        shown = Message("tool", "ok", call_id=call.id, name=call.name)
        result = ToolResult(call.id, "ok")
        return StepResult((shown,), 0.0, False, False, StepInfo(results=(result,)))

    async def judge(self, action: Action) -> StepResult:
        raise AssertionError


Play = Callable[..., Any]


@pytest.fixture
def play(world: Any) -> Play:
    """Plays a plan on turns of given entropies (shares of ln V); all but the last turn call."""
    log_v = math.log(world.renderer.tokenizer.vocab_size)
    Steps.made, Steps.lose = 0, frozenset()

    async def run(*shares: float, size: int = 16, lose: int | None = None, **options: Any) -> Group:
        def write(row: Any, sampling: Sampling, index: int) -> Reply:
            n = world.renderer.tokenizer.decode(np.asarray(row)).count("</code>")
            last = n == len(shares) - 1
            ids = world.renderer.demo("done" if last else CALL, ended=last).tolist()
            return Reply(ids, [-0.5] * len(ids), [shares[n] * log_v] * len(ids))

        Steps.lose = frozenset() if lose is None else frozenset({lose})
        parts = world.parts(world.script(write), Steps)
        services = Services(Episodes(parts, seed=7, retries=0))
        plan = Aepo(group_size=size, renderer=world.renderer, **options)
        return await plan.collect(world.task, services, CTX)

    return run


def parents(group: Group) -> dict[int, str]:
    return {t.sibling: t.parent for t in group.trajectories if t.parent is not None}


@pytest.mark.parametrize(
    ("shares", "beta", "roots"),
    [((0.5, 0.5), 0.5, 9), ((0.9, 0.1), 4.0, 16), ((0.1, 0.9), 9.0, 2), ((0.3, 0.6, 0.2), 8.0, 5)],
)
async def test_the_probe_decides_how_many_start_from_the_prompt(
    play: Play, shares: tuple[float, ...], beta: float, roots: int
) -> None:
    """16 sigmoid(4 x 0.8) = 15.4 -> 16; at 9 x -0.8 0.01 -> 1, and one more, as the probe is over and
    cannot branch; at 0.3 against the mean 0.4 16 x 0.31 = 4.96 -> 5.

    A rule that always branches, with many copies, shows how many places were left for branches.
    """
    group = await play(*shares, sensitivity=beta, tau=-9.0, copies=16)
    assert [t.sibling for t in group.trajectories] == list(range(16))
    assert 16 - len(parents(group)) == roots


async def test_without_a_result_the_probe_says_half(play: Play) -> None:
    group = await play(0.4, size=8)
    assert (parents(group), Steps.made) == ({}, 0)
    assert len(group.trajectories) == 8


async def test_a_fixed_split_needs_no_probe(play: Play) -> None:
    group = await play(0.1, 0.2, size=4, initial=2)
    assert parents(group) == {2: "2/t/0", 3: "2/t/1"}, "the first root branches as well"
    assert Steps.made == 2


@pytest.mark.parametrize(("penalty", "streak"), [(0.0, 4), (0.05, 2), (0.2, 1), (1.0, 1)])
async def test_branching_in_a_row_ends_where_the_penalty_says(
    play: Play, penalty: float, streak: int
) -> None:
    """One root, 4 results, dH = 0.4 at each: P = 0.58 (1 - penalty l) > 0.5.

    At 0.05: 0.58, 0.551, 0.522, 0.493 would be three in a row, but l counts again from 0 after a
    result without a branching. tau = 0.53 ends it after two: 0.58, 0.551, 0.522.
    """
    group = await play(
        0.1, 0.5, 0.5, 0.5, 0.5, size=40, initial=1, copies=1, penalty=penalty, tau=0.53
    )
    root = group.trajectories[0]
    branched = sorted({t.fork_tokens for t in group.trajectories if t.parent == root.uid})
    starts = [i for i, x in enumerate(root.rows[0].mask) if x and not root.rows[0].mask[i - 1]][1:]
    expected = {4: [0, 1, 2, 3], 2: [0, 1, 3], 1: [0, 2]}[streak]
    assert branched == [starts[i] for i in expected]


async def test_every_sampled_token_has_its_entropy(play: Play) -> None:
    """Probe, roots, branches and fresh ones alike: AEPO's advantage reads them."""
    group = await play(0.3, 0.4, size=8, tau=0.45)
    kinds = {t.parent is None for t in group.trajectories}
    assert kinds == {True, False}
    for t in group.trajectories:
        for row in t.rows:
            assert (row.entropies[row.mask] > 0).all()


async def test_a_failed_probe_is_played_again(play: Play) -> None:
    group = await play(0.3, 0.4, size=4, lose=1)
    assert [(t.sibling, t.error) for t in group.trajectories] == [(i, None) for i in range(4)]


async def test_steps_do_not_share_a_probe(play: Play, world: Any) -> None:
    """Regression: nothing of a task outlives its tree."""
    first = await play(0.9, 0.1, sensitivity=4.0, tau=-9.0)
    again = await play(0.5, 0.5, sensitivity=4.0, tau=-9.0, copies=16)
    assert (len(parents(first)), len(parents(again))) == (0, 7)
