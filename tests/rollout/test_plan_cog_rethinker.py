"""Cog-Rethinker's plan: what nobody solves is taken apart beside solved tasks, then refined."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agentrl.algo.batch import make_batch
from agentrl.algo.types import RowContext
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.cog_rethinker import CogRethinker
from agentrl.rollout.plans.retrieval import bm25
from agentrl.trajectory import Group
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=4, seed=1)


def test_bm25_by_hand() -> None:
    """N = 3, mean length 2; `cat`: df 2, idf ln 1.6; `sat`: df 1, idf ln(1 + 2.5 / 1.5)."""
    scores = bm25("Cat sat", ["cat", "dog ran off", "cat sat"])
    rare, common = math.log(1 + 2.5 / 1.5), math.log(1.6)
    short = 2.2 / (1 + 1.2 * (0.25 + 0.75 / 2))
    assert scores == pytest.approx([common * short, 0.0, common + rare])
    assert bm25("x", []) == []


def solver(stage: int, seen: list[str]) -> Any:
    """Solves from the given stage on: 1 direct, 2 taken apart, 3 refined."""

    def turn(text: str, seed: int) -> str:
        seen.append(text)
        now = 3 if "An earlier attempt" in text else 2 if "Take this problem apart" in text else 1
        return "<answer>4</answer>" if now >= stage else f"<answer>{50 + now}</answer>"

    return turn


async def collected(
    world: Any, served: Any, stage: int, plan: CogRethinker | None = None, **options: Any
) -> tuple[Group, list[str]]:
    seen: list[str] = []
    made = plan or CogRethinker(**({"group_size": 3, "tries": 2} | options))
    return await made.collect(world.task, served(solver(stage, seen)), CTX), seen


@pytest.mark.parametrize(
    ("stage", "siblings", "asked"), [(1, [], 3), (2, [3, 4], 5), (3, [5, 6], 7), (4, [], 7)]
)
async def test_stages_follow_while_nothing_is_solved(
    world: Any, served: Any, stage: int, siblings: list[int], asked: int
) -> None:
    group, seen = await collected(world, served, stage)
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, *siblings]
    assert len(seen) == asked
    if stage == 3:
        assert "<answer>52</answer>" in seen[-1], "the wrong answers of stage 2 are refined"


async def test_right_answers_are_imitated_under_the_direct_prompt(world: Any, served: Any) -> None:
    """No policy token is left: the wrong ones are out of the gradient, the right ones are DEMO."""
    group, _ = await collected(world, served, 2)
    plain, _ = await collected(world, served, 1)
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    alone = make_batch([rewarded(plain, summed(plain))], pad_id=0)
    assert not batch.mask.any()
    assert [t.excluded for t in group.trajectories] == ["unsolved"] * 3 + [None] * 2
    n = int(alone.attention_mask[0].sum())
    assert batch.token_ids[3, :n].tolist() == alone.token_ids[0, :n].tolist()
    demo = batch.origins[3] == int(Origin.DEMO)
    assert demo.tolist()[:n] == alone.mask[0].tolist()[:n]


async def test_or_trained_by_ratio(world: Any, served: Any) -> None:
    group, _ = await collected(world, served, 2, learn="policy")
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    assert batch.contexts.tolist() == [RowContext.SAME] * 3 + [RowContext.RELABEL] * 2
    assert batch.mask.any(1).all()
    assert all(t.excluded is None for t in group.trajectories)


async def test_the_nearest_solved_tasks_are_shown(world: Any, served: Any) -> None:
    from agentrl.types import Task

    plan = CogRethinker(group_size=1, tries=1, demos=1, memory=2)
    for i, question in enumerate(("apples in Q", "Q and Q", "pears", "plums")):
        task = Task(f"t{i}", question, "4")
        group = await plan.collect(task, served(lambda *_: "<answer>4</answer>"), CTX)
        plan.observe([group], CTX)
        if i == 1:
            _, seen = await collected(world, served, 4, plan)
            assert "A solved problem:\nQ and Q\n<answer>4</answer>\n\nTake" in seen[1]
            assert "apples" not in seen[1]
    assert plan.state() == {
        "solved": [["pears", "<answer>4</answer>"], ["plums", "<answer>4</answer>"]]
    }
    _, seen = await collected(world, served, 4, plan)
    assert "A solved problem" not in seen[1], "nothing alike is left in memory"
    again = CogRethinker()
    again.restore(plan.state())
    assert again.state() == plan.state()


def test_a_text_without_its_place_is_refused() -> None:
    with pytest.raises(UserError, match="refine needs"):
        CogRethinker(refine="again")
    with pytest.raises(UserError, match="at least 1"):
        CogRethinker(tries=0)
