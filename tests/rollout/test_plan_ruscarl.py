"""RuscaRL's plan: the rubric fades by sibling and by step, and is gone where the rows are trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentrl.algo.batch import make_batch
from agentrl.algo.offpolicy import Correction, denominators
from agentrl.algo.types import RowContext
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.rewards.base import rewarded, summed
from agentrl.rollout.plans.ruscarl import RuscaRL, criteria_of
from agentrl.trajectory import Group

RUBRIC = [{"criterion": f"c{i}", "points": p} for i, p in enumerate((5, 3, 2, 1))]


def at(x: float) -> Ctx:
    return Ctx(step=round(x * 100), total_steps=101, seed=1)


def turn(text: str, seed: int) -> str:
    """The shown criteria decide the answer."""
    return f"<answer>{text.count('points')}</answer>"


async def collected(
    world: Any, served: Any, x: float = 0.0, turn: Any = turn, **given: Any
) -> Group:
    task = replace(world.task, metadata={"rubric": RUBRIC})
    return await RuscaRL(group_size=5, **given).collect(task, served(turn), at(x))


@pytest.mark.parametrize(
    ("sibling", "x", "wanted"), [(0, 0.2, 0.5), (7, 0.2, 0), (3, 0.1, 0.57143), (0, 0.25, 0.00193)]
)
def test_the_vectors_of_the_share(sibling: int, x: float, wanted: float) -> None:
    assert RuscaRL(group_size=8).share(sibling, at(x)) == pytest.approx(wanted, abs=1e-5)


def test_a_later_midpoint_keeps_the_scaffold_longer() -> None:
    """x0 .4: at x = .25 it still stands; k 0: half of it always."""
    assert RuscaRL(group_size=8, midpoint=0.4).share(0, at(0.25)) == pytest.approx(1.0, abs=1e-5)
    assert RuscaRL(group_size=8, steepness=0.0).share(0, at(1.0)) == 0.5
    assert RuscaRL(group_size=8, steepness=1e6).share(0, at(1.0)) == 0.0


async def test_siblings_read_less_and_less(world: Any, served: Any) -> None:
    for x, wanted in ((0.0, "43210"), (0.2, "22100"), (0.9, "00000")):
        group = await collected(world, served, x)
        assert "".join(t.answer[8] for t in group.trajectories if t.answer) == wanted
        hinted = [t.rows[0].train_context is not None for t in group.trajectories]
        assert hinted == [n != "0" for n in wanted]


async def test_rows_are_trained_without_it_and_scored_anew(world: Any, served: Any) -> None:
    """relabel: old logprobs are the learner's under the plain prompt, and nothing is corrected."""
    group = await collected(world, served, turn=lambda *_: "<answer>4</answer>")
    batch = make_batch([rewarded(group, summed(group))], pad_id=0)
    assert batch.contexts.tolist() == [RowContext.RELABEL] * 4 + [RowContext.SAME]
    assert all(ids == batch.token_ids[4].tolist() for ids in batch.token_ids.tolist())
    learner = batch.behaviour_logprobs - 0.5
    old, behaviour = denominators(batch, learner, Correction(level="token"))
    at_mask = batch.mask[0]
    assert old[0][at_mask].tolist() == learner[0][at_mask].tolist()
    assert behaviour[0][at_mask].tolist() == learner[0][at_mask].tolist()
    assert behaviour[4][at_mask].tolist() != learner[4][at_mask].tolist()


async def test_it_can_be_told_to_keep_them_to_itself(world: Any, served: Any) -> None:
    seen: list[str] = []

    def reading(text: str, seed: int) -> str:
        seen.append(text)
        return "<answer>4</answer>"

    await collected(world, served, turn=reading, silent=True, item="* {criterion}")
    assert sum("criteria:\n* c0\n* c1\n* c2\n* c3\nDo not mention" in text for text in seen) == 1


async def test_tasks_without_a_rubric_read_the_plans(world: Any, served: Any) -> None:
    plan = RuscaRL(group_size=3, criteria={"short": 1, "right": 2})
    group = await plan.collect(world.task, served(turn), at(0.0))
    assert [t.answer for t in group.trajectories] == [f"<answer>{n}</answer>" for n in (2, 1, 0)]


def test_a_rubric_has_a_form(world: Any) -> None:
    for wrong in (None, "text", [], [{"criterion": "a"}], ["a"]):
        with pytest.raises(UserError, match="needs metadata"):
            criteria_of(replace(world.task, metadata={} if wrong is None else {"rubric": wrong}))
    with pytest.raises(UserError, match="steepness"):
        RuscaRL(steepness=-1.0)
