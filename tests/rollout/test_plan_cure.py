"""CURE's plan: one uncertain token of each rollout written anew, its prefix trained once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from agentrl.algo.batch import make_batch
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.cure import Cure, top_entropies
from agentrl.transcript import Origin, Segment, Transcript

CTX = Ctx(step=0, total_steps=10, seed=1)


def turn(text: str, seed: int) -> str:
    """A call, then an answer; a branch may cut either short."""
    return "<code>1+1</code>" if "</code>" not in text else f"so <answer>{seed % 10}</answer>"


def plan(world: Any, **options: Any) -> Cure:
    return Cure(world.renderer, **({"min_chars": 1, "group_size": 8} | options))


async def collected(world: Any, served: Any, ctx: Ctx = CTX, **options: Any) -> Any:
    return await plan(world, **options).collect(world.task, served(turn), ctx)


def test_the_most_uncertain_tokens_come_first() -> None:
    """Observations and forced tokens have no entropy to speak of; unfit tokens are left out."""
    row = Transcript().append(
        Segment(Origin.PROMPT, [1, 2]),
        Segment(Origin.MODEL, [5, 6, 7], [-1.0] * 3, version=0, entropies=[0.2, 0.9, 0.5]),
        Segment(Origin.OBSERVATION, [8]),
        Segment(Origin.FORCED, [9], [-1.0]),
        Segment(Origin.MODEL, [6, 5], [-1.0] * 2, version=0, entropies=[0.7, 0.9]),
    )
    assert top_entropies(row, 3, lambda _: True) == [3, 8, 7]
    assert top_entropies(row, 3, lambda i: i != 6) == [8, 4, 2]


async def test_two_rollouts_and_their_branches(world: Any, served: Any) -> None:
    group = await collected(world, served)
    assert [t.sibling for t in group.trajectories] == list(range(8))
    uids = [t.uid for t in group.trajectories]
    assert [t.parent for t in group.trajectories] == [None] * 2 + [uids[0]] * 3 + [uids[1]] * 3
    for branch in group.trajectories[2:]:
        root = group.trajectories[uids.index(branch.parent)]
        n = branch.fork_tokens
        assert n is not None
        assert branch.rows[0].token_ids[:n].tolist() == root.rows[0].token_ids[:n].tolist()
        assert not branch.rows[0].mask[:n].any(), "the prefix is trained by its rollout alone"
        assert branch.rows[0].mask[n], "the critical token is the branch's own"
        assert root.rows[0].mask[n]
    assert group.trajectories[0].rows[0].n_sampled > 0


async def test_the_critical_token_is_drawn_from_the_top(world: Any, served: Any) -> None:
    """`top` turned down to 1: always the token of highest entropy, the earliest of equals."""
    places: dict[int, Counter[int]] = {}
    for top in (1, 20):
        places[top] = Counter()
        for step in range(6):
            ctx = Ctx(step=step, total_steps=10, seed=1)
            group = await collected(world, served, ctx, top=top)
            root, branch = group.trajectories[0], group.trajectories[2]
            best = top_entropies(root.rows[0], 1, lambda i: i not in world.renderer.stop_ids)[0]
            places[top][branch.fork_tokens - best] += 1
    assert places[1] == {0: 6}
    assert len(places[20]) > 2


async def test_stage_two_samples_plainly(world: Any, served: Any) -> None:
    for step, n_branches in ((5, 6), (6, 0)):
        ctx = Ctx(step=step, total_steps=10, seed=1)
        group = await collected(world, served, ctx, stage_one=0.6)
        assert sum(t.parent is not None for t in group.trajectories) == n_branches
        assert len(group.trajectories) == 8


async def test_the_batch_counts_the_prefix_once(world: Any, served: Any) -> None:
    group = await collected(world, served)
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    own = [t.n_sampled for t in group.trajectories]
    assert batch.mask.sum(1).tolist() == own
    assert batch.n_tokens == sum(own)
    assert batch.parents.tolist() == [-1, -1, 0, 0, 0, 1, 1, 1]


async def test_a_row_without_a_candidate_gives_rollouts(world: Any, served: Any) -> None:
    """Nothing of a hundred characters: six more rollouts instead of branches."""
    group = await collected(world, served, min_chars=100)
    assert [t.parent for t in group.trajectories] == [None] * 8
    assert [t.sibling for t in group.trajectories] == list(range(8))


def test_a_group_that_does_not_divide_is_refused(world: Any) -> None:
    with pytest.raises(UserError, match="a multiple of 1"):
        plan(world, group_size=10)
