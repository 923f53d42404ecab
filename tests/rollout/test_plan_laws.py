"""What holds for every plan with trees, rows, pools and roles, under a policy that does anything at all.

Everything the policy does follows from a request's seed: prose, calls, answers, tags, half-finished
turns, and now and then a failing engine.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from agentrl.algo.batch import make_batch
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import Reply
from agentrl.errors import EngineError
from agentrl.points import Ctx, RolloutPlan, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plan_deepsearch import DeepSearch
from agentrl.rollout.plan_delethink import Delethink
from agentrl.rollout.plan_inspo import Inspo
from agentrl.rollout.plan_long_short import LongShort
from agentrl.rollout.plan_rlad import Rlad
from agentrl.rollout.plan_spc import Spc
from agentrl.rollout.plan_trimr import Watched
from agentrl.rollout.plan_ttrl import VotePool
from agentrl.trajectory import Group
from agentrl.transcript import SAMPLED, Origin

SIZE = 4
PLANS: Mapping[str, tuple[Callable[[], RolloutPlan], int]] = {
    "delethink": (lambda: Delethink(group_size=SIZE, chunk=9, carry=4, keep_head=2), SIZE),
    "deepsearch": (lambda: DeepSearch(group_size=SIZE, width=2, node_tokens=5, max_depth=6), SIZE),
    "ttrl": (lambda: VotePool(group_size=SIZE, votes=6), 6),
    "inspo": (lambda: Inspo(group_size=SIZE, proxy=0), SIZE),
    "long": (lambda: LongShort(group_size=SIZE, trained="long", role_tokens=6), SIZE),
    "short": (lambda: LongShort(group_size=SIZE, trained="short", role_tokens=6), SIZE),
    "both": (lambda: LongShort(group_size=SIZE, role_tokens=6), SIZE),
    "abstractions": (
        lambda: Rlad(group_size=SIZE, trained="abstraction", solutions=2, leak_samples=2), SIZE,
    ),
    "solvers": (lambda: Rlad(group_size=SIZE, trained="solver", leak_samples=1), SIZE),
    "critics": (lambda: Spc(group_size=SIZE, trained="critic", attempts=SIZE, completions=1), SIZE),
    "sneaks": (lambda: Spc(group_size=SIZE, trained="sneaky", attempts=SIZE, completions=1), SIZE),
    "trimr": (lambda: Watched(group_size=SIZE, every=5, repeats=2, min_chars=4), SIZE),
}  # fmt: skip
"""Name -> how the plan is made, and members of its groups."""
PIECES = (
    "ab", "abababab", "<code>1</code>", "<answer>4</answer>", "<answer>5</answer>", "<think>",
    "</think>", "</rethink>", "line\n", "x = 4. Wait, ", "<Answer>Correct</Answer>", "<code>2",
)  # fmt: skip


def anything(world: Any, salt: int) -> Callable[..., Reply]:
    """A policy whose every reply follows from the request's seed and `salt`."""

    def write(row: Any, sampling: Sampling, index: int) -> Reply:
        rng = np.random.default_rng([sampling.seed, salt])
        if rng.random() < 0.02:
            raise EngineError("gone")
        text = "".join(rng.choice(PIECES, size=rng.integers(1, 4)))
        ids = world.renderer.demo(text, ended=bool(rng.random() < 0.5)).tolist()
        ids = ids[: sampling.max_tokens]
        return Reply(ids, (-rng.uniform(0.01, 3.0, len(ids))).tolist())

    return write


async def collected(
    world: Any, plan: RolloutPlan, salt: int, step: int, jitter: Random | None = None
) -> tuple[Group, Any]:
    """The plan's group, and what the engine gave for each row it was asked to continue.

    With `jitter` requests are answered in another order than they came.
    """
    engine = world.script(anything(world, salt))
    parts = world.parts(engine, partners={"self": engine}, turn_tokens=40, max_turns=5)
    parts = replace(parts, sampling=replace(parts.sampling, temperature=0.7))
    services = Services(episodes=Episodes(parts, seed=salt, in_flight=8), partners={"self": engine})
    given: dict[tuple[int, ...], list[tuple[list[int], list[float]]]] = defaultdict(list)
    inner = engine.generate

    async def generate(token_ids: Any, sampling: Sampling) -> Any:
        if jitter is not None:
            await asyncio.sleep(0.003 * jitter.random())
        generation = await inner(token_ids, sampling)
        one = (generation.token_ids.tolist(), generation.logprobs.tolist())
        given[tuple(np.asarray(token_ids).tolist())].append(one)
        return generation

    engine.generate = generate
    async with asyncio.timeout(60):
        return await plan.collect(world.task, services, Ctx(step, 9, salt)), given


@pytest.mark.parametrize("name", PLANS)
async def test_every_trained_token_has_the_logprob_it_was_sampled_with(
    world: Any, name: str
) -> None:
    """Law 2: a MODEL segment is what the engine answered to exactly the ids that stand before it."""
    make, n = PLANS[name]
    trained = 0
    for salt in range(8):
        group, given = await collected(world, make(), salt, salt % 2)
        assert [t.sibling for t in group.trajectories] == list(range(n)) or (
            {t.excluded for t in group.trajectories} <= {"unsolved", None}
        )
        assert len(group.trajectories) == n
        assert len({t.uid for t in group.trajectories}) == n
        for trajectory in group.trajectories:
            for row in trajectory.rows:
                ids, start = row.token_ids.tolist(), 0
                for segment in row.segments:
                    end = start + len(segment)
                    if segment.origin is Origin.MODEL:
                        assert segment.logprobs is not None
                        one = (ids[start:end], segment.logprobs.tolist())
                        assert one in given[tuple(ids[:start])]
                        assert segment.policy == "policy"
                        assert segment.temperature == 0.7
                        trained += len(segment)
                    start = end
                masked = [s.origin in SAMPLED for s in row.segments for _ in range(len(s))]
                assert row.mask.tolist() == masked
        if group.token_rewards is not None:
            sizes = [t.n_tokens for t in group.trajectories]
            assert [len(values) for values in group.token_rewards] == sizes
        shaped = tuple(replace(t, reward=1.0) for t in group.counted.trajectories)
        if any(t.trainable for t in shaped):
            batch = make_batch([replace(group.counted, trajectories=shaped)], pad_id=0)
            assert bool((batch.behaviour_logprobs[batch.mask] < 0).all())
            assert not batch.behaviour_logprobs[~batch.mask].any()
            assert batch.n_tokens == sum(t.n_sampled for t in shaped if t.trainable)
    assert trained > 50


@pytest.mark.parametrize("name", PLANS)
async def test_the_same_group_again(world: Any, name: str) -> None:
    """Ids, order, rewards and marks follow from seeds alone, whatever arrives first."""
    make, _ = PLANS[name]
    for salt in range(3):
        one, two = [
            (await collected(world, make(), salt, 1, Random(arrival)))[0] for arrival in (1, 2)
        ]
        for a, b in zip(one.trajectories, two.trajectories, strict=True):
            assert (a.uid, a.sibling, a.stop, a.excluded) == (b.uid, b.sibling, b.stop, b.excluded)
            assert a.rewards == b.rewards
            assert [r.token_ids.tolist() for r in a.rows] == [r.token_ids.tolist() for r in b.rows]
