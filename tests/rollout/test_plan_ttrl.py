"""TTRL's pool: all vote, the first are trained, and voters are in no statistic of what is trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from agentrl.algo.advantage import Outcome
from agentrl.algo.batch import make_batch
from agentrl.engine.base import Sampling
from agentrl.errors import EngineError, UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Keep, Services
from agentrl.rewards.ttrl import Ttrl
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.ttrl import VOTE_ONLY, VotePool
from agentrl.train.collect import Assembly, Method
from agentrl.trajectory import Group

CTX = Ctx(step=0, total_steps=1, seed=0)


class Gate:
    """Lets everything in and remembers it."""

    def __init__(self) -> None:
        self.groups: list[Group] = []

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Keep:
        self.groups.append(group)
        return Keep()


async def pool(world: Any, plan: VotePool, *answers: str | None) -> tuple[Group, Any]:
    """Sibling i answers the i-th text, None fails; and what the batch was made of."""

    def write(row: Any, sampling: Sampling, index: int) -> str:
        answer = answers[index]
        if answer is None:
            raise EngineError("gone")
        return answer

    parts = world.parts(world.script(write))
    services = Services(episodes=Episodes(parts, seed=1, in_flight=1, retries=0))
    group = await plan.collect(world.task, services, CTX)
    seen = Gate()
    method = Method(source=None, plan=plan, services=services, shapers=[Ttrl()],
                    gate=seen)  # type: ignore[arg-type]  # fmt: skip
    made = Assembly(method, HistoryStore(), CTX, 1)
    made.take(group)
    assert [len(g.trajectories) for g in seen.groups] == [
        len(made.collected(1).kept[0].trajectories)
    ]
    return group, made.collected(1)


async def test_the_majority_of_all_votes_labels_the_trained(world: Any) -> None:
    """Trained: 3, 7, 3. Voters 7, 7, 5 make 7 the majority: rewards 0, 1, 0 with mean 1/3."""
    group, made = await pool(world, VotePool(group_size=3, votes=6), *"373775")
    marks = [t.excluded for t in group.trajectories]
    assert marks == [None] * 3 + [VOTE_ONLY] * 3
    (kept,) = made.kept
    assert [t.reward for t in kept.trajectories] == [0.0, 1.0, 0.0]
    assert [t.reward for t in made.everyone[0].trajectories] == [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    batch = make_batch(made.kept, pad_id=0)
    advantages = Outcome(center="group", scale="none")(batch, CTX)
    first = batch.mask.int().argmax(1)
    got = [float(advantages[i, t]) for i, t in enumerate(first)]
    assert got == pytest.approx([-1 / 3, 2 / 3, -1 / 3])
    assert batch.n_sequences == 3


async def test_agreement_and_the_labels_truth_are_measured(world: Any) -> None:
    """Right is what holds `<answer>4</answer>`: two of four votes, so a label that is right."""
    right = "<answer>4</answer>"
    for votes, share, label in (
        ((right, "3", right, "5"), 0.5, 1.0),
        (("3", "3", "3", right), 0.75, 0.0),
    ):
        group, _ = await pool(world, VotePool(group_size=2, votes=4), *votes)
        for member in group.trajectories:
            assert (member.rewards["vote/share"], member.rewards["vote/label"]) == (share, label)


async def test_fewer_votes_give_another_label(world: Any) -> None:
    """Turned: only the trained ones vote, 3 wins."""
    _, made = await pool(world, VotePool(group_size=3, votes=3), *"373")
    assert [t.reward for t in made.kept[0].trajectories] == [1.0, 0.0, 1.0]


async def test_a_failed_vote_is_made_up_for(world: Any) -> None:
    """The first three that answered are trained; the failed one keeps its error."""
    answers = ["3", None, "7", "7", "7"]
    group, made = await pool(world, VotePool(group_size=3, votes=5), *answers)
    assert [t.excluded for t in group.trajectories] == [None] * 4 + [VOTE_ONLY]
    assert group.trajectories[1].error is not None
    assert len(made.kept[0].scored) == 3
    assert made.dropped == {}


async def test_gates_read_the_trained_alone(world: Any) -> None:
    """All trained agree with the majority: nothing to learn, whatever the voters say."""
    group, made_of = await pool(world, VotePool(group_size=2, votes=4), *"7735")
    assert [t.reward for t in made_of.kept[0].trajectories] == [1.0, 1.0]
    values = tuple(range(4))
    rows = tuple(
        t.rows[0].logprobs * 0 + v for t, v in zip(group.trajectories, values, strict=True)
    )
    counted = replace(group, token_rewards=rows).counted
    assert counted.token_rewards is not None
    assert [float(r[0]) for r in counted.token_rewards] == [0.0, 1.0]
    assert math.isclose(sum(t.reward for t in made_of.everyone[0].trajectories), 2.0)


def test_fewer_votes_than_trained_are_refused() -> None:
    with pytest.raises(UserError, match="votes=4"):
        VotePool(group_size=8, votes=4)
