"""Long-Short: who writes what, whose tokens are trained, the format's state machine, the lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl.engine.base import Sampling
from agentrl.errors import EngineError, UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services, Shaped
from agentrl.rewards.kimi_length import KimiLength
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.long_short import LongShort, well_formed
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript, floats_array
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=4, seed=0)
LONG = ("<think>hard</think>", "<think>again</think>")
SHORT = ("<answer>no</rethink>", "<answer>4</answer>")


@pytest.mark.parametrize(
    ("piece", "good"),
    [
        ("<answer> </answer>", False),
        ("<answer>x</rethink>", True),
        ("<answer>x</answer>", True),
        ("<answer>a < b</answer>", False),
        ("so <answer>x</answer>", False),
        ("<answer>x</answer><answer>y</answer>", False),
        ("<answer>x", False),
    ],
)
def test_the_short_form(piece: str, good: bool) -> None:
    assert well_formed("short", piece) is good


def writing(world: Any, long: Any = LONG, short: Any = SHORT) -> Any:
    """An engine that knows both roles: the k-th thought, or the k-th answer, by what the row holds."""

    def write(row: Any, sampling: Sampling, index: int) -> str:
        text = world.renderer.tokenizer.decode(np.asarray(row))
        thoughts, answers = text.count("</think>"), text.count("<answer>")
        return long[thoughts] if thoughts == answers else short[answers]

    return world.script(write)


async def chains(
    world: Any, plan: LongShort, engine: Any, ctx: Ctx = CTX, **partners: Any
) -> list[Trajectory]:
    given = {"self": engine, **partners}
    parts = world.parts(engine, partners=given)
    services = Services(episodes=Episodes(parts, seed=1), partners=given)
    group = await plan.collect(world.task, services, ctx)
    assert [t.sibling for t in group.trajectories] == list(range(len(group.trajectories)))
    return list(group.trajectories)


def origins(trajectory: Trajectory) -> list[tuple[Origin, str]]:
    return [(s.origin, s.policy) for s in trajectory.rows[0].segments[1:]]


async def test_both_roles_of_one_policy(world: Any) -> None:
    """Long, short asks again, long, short answers: four pieces, one turn, all trained."""
    two = await chains(world, LongShort(group_size=2), writing(world))
    for one in two:
        assert one.messages[-1].content == "".join((LONG[0], SHORT[0], LONG[1], SHORT[1]))
        assert origins(one) == [(Origin.MODEL, "policy")] * 4
        assert one.rewards == {"env": 1.0, "format": 1.0, "roles/exchanges": 2.0}
        assert one.n_turns == 1


@pytest.mark.parametrize(("trained", "mine"), [("long", 0), ("short", 1)])
async def test_only_the_trained_role_is_sampled(world: Any, trained: str, mine: int) -> None:
    """The other role's tokens are the partner's: mask 0, not counted in lengths."""
    role = "short" if trained == "long" else "long"
    plan = LongShort(group_size=1, trained=trained)  # type: ignore[arg-type]
    partner = writing(world)
    (one,) = await chains(world, plan, writing(world), **{role: partner})
    theirs = (Origin.OBSERVATION, role)
    pair = [(Origin.MODEL, "policy"), theirs] if mine == 0 else [theirs, (Origin.MODEL, "policy")]
    assert origins(one) == pair * 2
    assert len(partner.rows) == 2
    sizes = [len(world.renderer.demo(p)) for p in ((*LONG,) if mine == 0 else (*SHORT,))]
    assert one.n_sampled == sum(sizes)
    assert one.rewards["env"] == 1.0


async def test_roles_take_turns_by_step(world: Any) -> None:
    plan = LongShort(group_size=1, trained="alternate")
    for step, mine in ((0, 0), (1, 1), (2, 0)):
        (one,) = await chains(world, plan, writing(world), replace(CTX, step=step))
        trained = [i for i, (origin, _) in enumerate(origins(one)) if origin is Origin.MODEL]
        assert trained == [mine, mine + 2]
    frozen = writing(world)
    with pytest.raises(UserError, match="frozen"):
        await chains(world, plan, writing(world), short=frozen)
    for trained in ("both", "short"):
        plan = LongShort(group_size=1, trained=trained)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="would do nothing"):
            await chains(world, plan, writing(world), short=frozen)


async def test_exchanges_and_pieces_are_bounded(world: Any) -> None:
    """With one exchange a plea for more ends the turn; a thought of 3 tokens is closed by the plan."""
    (one,) = await chains(world, LongShort(group_size=1, exchanges=1), writing(world))
    assert one.messages[-1].content == LONG[0] + SHORT[0]
    assert one.rewards == {"env": 0.0, "format": 1.0, "roles/exchanges": 1.0}
    (cut,) = await chains(world, LongShort(group_size=1, role_tokens=3), writing(world))
    closer = cut.rows[0].segments[2]
    assert closer.origin is Origin.SCAFFOLD
    assert world.renderer.tokenizer.decode(closer.token_ids) == "</think>"
    assert cut.rewards["format"] == 0.0
    assert cut.n_sampled == 6


async def test_a_call_within_a_thought(world: Any) -> None:
    """The tool answers in the middle of the long role's piece, which then goes on."""

    def write(row: Any, sampling: Sampling, index: int) -> str:
        return ("<think>so <code>1</code>", "ah</think>", "<answer>4</answer>")[index]

    plan = LongShort(group_size=1, trained="long")
    (one,) = await chains(world, plan, world.script(write))
    assert world.log.code == ["1"]
    assert one.rewards["env"] == 1.0
    assert one.n_turns == 2
    assert origins(one)[-1] == (Origin.OBSERVATION, "self")


async def test_a_failed_chain_is_played_again(world: Any) -> None:
    inner, asked = writing(world), 0

    def once(row: Any, sampling: Sampling, index: int) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise EngineError("gone")
        return inner._script(np.asarray(row), sampling, index)

    two = await chains(world, LongShort(group_size=2), world.script(once))
    assert [t.error for t in two] == [None, None]


def test_lengths_are_paid_as_published() -> None:
    """100 right, 200 right, 300 wrong: .5, 0, -.5; wrong at 100: 0."""

    def made(sibling: int, n: int, right: float) -> Trajectory:
        row = Transcript().append(Segment(Origin.PROMPT, [1]))
        row = row.append(Segment(Origin.MODEL, [2] * n, [-1.0] * n, version=0))
        task = Task("t", "?", "1")
        return Trajectory(f"0/t/{sibling}", task, sibling, (row,), (), StopReason.TERMINATED,
                          rewards={"env": right})  # fmt: skip

    def paid(*members: tuple[int, float]) -> list[float]:
        group = Group(Task("t", "?", "1"), tuple(made(i, *m) for i, m in enumerate(members)))
        shaped = Shaped(floats_array([0.0] * len(members)))
        return KimiLength()(group, shaped, HistoryStore(), CTX).rewards_G.tolist()

    assert paid((100, 1), (200, 1), (300, 0)) == [0.5, 0.0, -0.5]
    assert paid((100, 0), (200, 1), (300, 0)) == [0.0, 0.0, -0.5]
    assert paid((200, 1), (200, 0)) == [0.0, 0.0]
