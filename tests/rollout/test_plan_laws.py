"""What holds for every plan that hints, forces, reopens or mixes, whatever the model does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest

from agentrl.algo.batch import make_batch
from agentrl.points import Adaptive, Ctx, RolloutPlan
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.adaptthink import AdaptThink
from agentrl.rollout.plans.cog_rethinker import CogRethinker
from agentrl.rollout.plans.cort_hints import CortHints
from agentrl.rollout.plans.cure import Cure
from agentrl.rollout.plans.guide import Guide
from agentrl.rollout.plans.luffy import Luffy
from agentrl.rollout.plans.rex_rag import RexRag
from agentrl.rollout.plans.rgr import Rgr
from agentrl.rollout.plans.ruscarl import RuscaRL
from agentrl.rollout.plans.stage import ExpertTurn
from agentrl.seeds import derive
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import SAMPLED, Float32Array, Origin, floats_array

RUBRIC = [{"criterion": "short", "points": 1}, {"criterion": "right", "points": 2}]
SEEDS = range(6)


@dataclass(frozen=True)
class Case:
    """A plan, and what its groups may look like."""

    make: Callable[[Any], RolloutPlan]
    sizes: range
    """Members of a group."""
    redeclares: bool = False
    """Sampled tokens may carry another number than the engine's."""


def expert(world: Any) -> Any:
    def turns(task: Any, seed: int) -> list[ExpertTurn]:
        texts = ("<code>2+2</code>", "<answer>4</answer>")
        return [ExpertTurn(t, world.renderer.demo(t, ended=t.endswith("r>"))) for t in texts]

    return turns


CASES = {
    "adaptthink": Case(lambda w: AdaptThink(w.renderer, group_size=4, thinking="Hm"), range(4, 5)),
    "cog_rethinker": Case(lambda w: CogRethinker(group_size=2, tries=2), range(2, 5)),
    "cog_policy": Case(lambda w: CogRethinker(group_size=2, tries=2, learn="policy"), range(2, 5)),
    "cort_hints": Case(lambda w: CortHints(group_size=3, by_hand=("x",)), range(3, 4)),
    "cure": Case(lambda w: Cure(w.renderer, group_size=8, min_chars=1), range(8, 9)),
    "guide": Case(lambda w: Guide(group_size=2), range(2, 5)),
    "luffy": Case(lambda w: Luffy(group_size=3, expert=expert(w)), range(3, 4)),
    "rex_rag": Case(
        lambda w: RexRag(w.renderer, group_size=4, probability=0.7), range(4, 9), redeclares=True
    ),
    "rgr": Case(lambda w: Rgr(group_size=4, component="env"), range(4, 5)),
    "ruscarl": Case(lambda w: RuscaRL(group_size=4), range(4, 5)),
}


class Even:
    """A scorer that gives every token the same."""

    async def logprobs(self, model: str, rows: Sequence[Sequence[int]]) -> list[Float32Array]:
        return [floats_array([-1.5] * len(row)) for row in rows]


def erratic(text: str, seed: int) -> str:
    """Right, wrong, calling, unreadable or rambling, by the sampling seed alone."""
    rng = Random(derive(seed, len(text)))
    return rng.choice(
        (
            "<answer>4</answer>", "<answer>5</answer>", "so <answer>5</answer>", "x <code>1</code>",
            "<code>2+2</code>", "<code></code>", "x x x", "<think>x</think><answer>4</answer>",
        )
    )  # fmt: skip


def slow(seed: int) -> Callable[[str], Awaitable[str]]:
    """A tool whose answers arrive in another order each time."""
    rng = Random(seed)

    async def run(code: str) -> str:
        await asyncio.sleep(rng.random() * 0.002)
        return code

    return run


async def collected(
    world: Any, served: Any, case: Case, seed: int, *, pace: int = 0, plan: Any = None, **more: Any
) -> Group:
    world.task = replace(world.task, metadata={"hint": "two and two", "rubric": RUBRIC})
    given = {"make_env": world.quiz(slow(pace)), "max_turns": 4, "scorer": Even()} | more
    made = plan or case.make(world)
    ctx = Ctx(step=seed, total_steps=50, seed=1)
    return await made.collect(world.task, served(erratic, **given), ctx)


def told(trajectory: Trajectory) -> tuple[Any, ...]:
    """Everything of a trajectory but its times."""
    rows = [
        (r.token_ids.tolist(), r.logprobs.tolist(), r.origins.tolist(), r.ratio_mode)
        for r in trajectory.rows
    ]
    return trajectory.uid, trajectory.sibling, trajectory.rewards, trajectory.stop, rows


@pytest.mark.parametrize("name", CASES)
async def test_every_token_under_the_mask_has_its_behaviour(
    name: str, world: Any, served: Any
) -> None:
    """Law 2, over random behaviour: what the engine said of a token is what is recorded."""
    case = CASES[name]
    for seed in SEEDS:
        group = await collected(world, served, case, seed)
        for row in (row for t in group.trajectories for row in t.rows):
            at = np.arange(len(row))
            engine = (-0.1 - 0.05 * (at % 7)).astype(np.float32)
            model = row.origins == int(Origin.MODEL)
            if not case.redeclares:
                assert row.logprobs[model].tolist() == engine[model].tolist()
            recorded = [s.logprobs is not None for s in row.segments]
            assert recorded == [s.origin in SAMPLED for s in row.segments]
            assert np.isfinite(row.logprobs).all()
            assert (row.logprobs <= 0).all()
            assert not row.mask[0]
        groups = [rewarded(group, summed(group))]
        batch = make_batch(groups, pad_id=0)
        sampled = sum(t.n_sampled for t in group.trajectories if t.excluded is None)
        assert int(batch.mask.sum()) == sampled


@pytest.mark.parametrize("name", CASES)
async def test_groups_are_whole_ordered_and_repeatable(name: str, world: Any, served: Any) -> None:
    """The order in which tools answer changes nothing."""
    case = CASES[name]
    for seed in SEEDS[:3]:
        first = await collected(world, served, case, seed, pace=1)
        again = await collected(world, served, case, seed, pace=2)
        assert [told(t) for t in first.trajectories] == [told(t) for t in again.trajectories]
        siblings = [t.sibling for t in first.trajectories]
        assert siblings == sorted(set(siblings))
        assert len({t.uid for t in first.trajectories}) == len(siblings)
        assert len(siblings) in case.sizes
        assert all(t.error is None for t in first.trajectories)


@pytest.mark.parametrize("name", CASES)
async def test_hinted_rows_train_under_the_plain_prompt(name: str, world: Any, served: Any) -> None:
    """Wherever a row has another context it is the prompt of an episode that nobody helped."""
    plain = world.renderer.prompt_ids(
        (await world.play(world.turns("<answer>4</answer>"))).messages[:2]
    ).tolist()
    for seed in SEEDS:
        group = await collected(world, served, CASES[name], seed)
        batch = make_batch([rewarded(group, summed(group))], pad_id=0)
        for ids, mask in zip(batch.token_ids.tolist(), batch.mask, strict=True):
            assert ids[: len(plain)] == plain
            assert not mask[: len(plain)].any()


@pytest.mark.parametrize("name", CASES)
async def test_a_world_that_fails_now_and_then_is_played_again(
    name: str, world: Any, served: Any
) -> None:
    """One call in eight is lost: members come whole, or as failures out of the statistics."""
    rng = Random(5)

    async def shaky(code: str) -> str:
        if rng.random() < 0.125:
            raise ConnectionError("gone")
        return code

    lost = 0
    for seed in SEEDS:
        group = await collected(world, served, CASES[name], seed, make_env=world.quiz(shaky))
        assert len(group.trajectories) in CASES[name].sizes
        lost += sum(t.error is not None for t in group.trajectories)
    assert lost <= 2


@pytest.mark.parametrize("name", [n for n in CASES if isinstance(CASES[n], Case)])
async def test_what_learns_goes_on_from_its_state(name: str, world: Any, served: Any) -> None:
    """Interrupted at a boundary and restored, a plan plays on as if it had not been."""
    case = CASES[name]
    whole = case.make(world)
    if not isinstance(whole, Adaptive):
        return
    ctx = Ctx(step=0, total_steps=50, seed=1)
    for seed in SEEDS[:3]:
        whole.observe([await collected(world, served, case, seed, plan=whole)], ctx)
    resumed = case.make(world)
    assert isinstance(resumed, Adaptive)
    resumed.restore(whole.state())
    one = await collected(world, served, case, 4, plan=whole)
    other = await collected(world, served, case, 4, plan=resumed)
    assert [told(t) for t in one.trajectories] == [told(t) for t in other.trajectories]
