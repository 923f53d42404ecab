"""RLAD: what abstractions earn, leaks, solvers without one, and who plays which role."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl.engine.base import Sampling
from agentrl.errors import EngineError, UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.rlad import Rlad
from agentrl.trajectory import Group
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=4, seed=0)


def two_players(world: Any, hints: list[str], right: dict[str, list[bool]], leaky: str = "") -> Any:
    """Proposes the hints in turn; the k-th solver under a hint is right as its list says."""
    proposed, solved = iter(hints), dict.fromkeys(right, 0)

    def write(row: Any, sampling: Sampling, index: int) -> str:
        text = world.renderer.tokenizer.decode(np.asarray(row))
        if "Do not solve" in text:
            return next(proposed)
        if "Q" not in text:
            return "<answer>4</answer>" if leaky and leaky in text else "?"
        hint = next((h for h in right if f"Advice: {h}" in text), "")
        solved[hint] = solved.get(hint, 0) + 1
        right_now = right.get(hint, [True])
        return "<answer>4</answer>" if right_now[(solved[hint] - 1) % len(right_now)] else "no"

    return world.script(write)


async def play(world: Any, plan: Rlad, engine: Any, step: int = 0, **partners: Any) -> Group:
    given = {"self": engine, **partners}
    parts = world.parts(engine, partners=given)
    services = Services(episodes=Episodes(parts, seed=1), partners=given)
    return await plan.collect(world.task, services, replace(CTX, step=step))


RIGHT = {
    "h1": [True, False, False, False],
    "h2": [True, True, False, False],
    "h3": [False, True, False, True],
    "h4": [True, True, True, False],
}


async def test_an_abstraction_earns_the_mean_accuracy_under_it(world: Any) -> None:
    plan = Rlad(group_size=4, trained="abstraction", solutions=4, leak_samples=2)
    group = await play(world, plan, two_players(world, list(RIGHT), RIGHT))
    earned = {t.messages[-1].content: t.rewards["abstraction"] for t in group.trajectories}
    assert earned == {"h1": 0.25, "h2": 0.5, "h3": 0.5, "h4": 0.75}
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3]
    assert all(t.n_sampled == 3 and t.n_calls == 0 for t in group.trajectories)
    fewer = Rlad(group_size=4, trained="abstraction", solutions=2, leak_samples=0)
    group = await play(world, fewer, two_players(world, list(RIGHT), RIGHT))
    earned = {t.messages[-1].content: t.rewards["abstraction"] for t in group.trajectories}
    assert earned == {"h1": 0.5, "h2": 1.0, "h3": 0.5, "h4": 1.0}, "turned: two solvers each"


async def test_what_leaks_is_not_in_the_batch(world: Any) -> None:
    """A reader of `h4` alone answers right: it leaves the group before statistics are taken."""
    plan = Rlad(group_size=4, trained="abstraction", solutions=4, leak_samples=2)
    group = await play(world, plan, two_players(world, list(RIGHT), RIGHT, leaky="h4"))
    told = {t.messages[-1].content: t.excluded for t in group.trajectories}
    assert told == {"h1": None, "h2": None, "h3": None, "h4": "leaks"}
    kept = {t.messages[-1].content for t in group.counted.trajectories}
    assert kept == {"h1", "h2", "h3"}
    trusting = Rlad(group_size=4, trained="abstraction", solutions=4, leak_samples=0)
    group = await play(world, trusting, two_players(world, list(RIGHT), RIGHT, leaky="h4"))
    assert len(group.counted.trajectories) == 4


async def test_solvers_without_an_abstraction_earn_nothing(world: Any) -> None:
    plan = Rlad(group_size=4, trained="solver", leak_samples=1)
    engine = two_players(world, ["h2"], {"h2": [True, False], "": [True]})
    group = await play(world, plan, engine)
    members = group.trajectories
    assert sorted(t.rewards["env"] for t in members[:2]) == [0.0, 1.0]
    assert [t.rewards for t in members[2:]] == [{"env": 0.0, "rlad/bare": 1.0}] * 2
    assert [t.excluded for t in members] == [None, None, "no_abstraction", "no_abstraction"]
    assert [t.sibling for t in group.counted.trajectories] == [0, 1]
    read = ["Advice: h2" in t.messages[-2].content for t in members]
    assert read == [True, True, False, False]
    all_with = Rlad(group_size=4, trained="solver", leak_samples=0, bare=0.0)
    group = await play(world, all_with, two_players(world, ["h2"], {"h2": [True]}))
    assert [t.rewards["env"] for t in group.trajectories] == [1.0] * 4


async def test_solvers_of_a_leak_are_all_bare(world: Any) -> None:
    plan = Rlad(group_size=2, trained="solver", leak_samples=1)
    engine = two_players(world, ["h2"], {"h2": [True], "": [True]}, leaky="h2")
    group = await play(world, plan, engine)
    assert group.counted.trajectories == ()
    assert [t.rewards["rlad/bare"] for t in group.trajectories] == [1.0, 1.0]


async def test_roles_alternate_and_partners_play_the_other(world: Any) -> None:
    plan = Rlad(group_size=2, solutions=1, leak_samples=0)
    engine = two_players(world, ["h1"] * 9, {"h1": [True]})
    first, second = [await play(world, plan, engine, step) for step in (0, 1)]
    assert "abstraction" in first.trajectories[0].rewards
    assert "abstraction" not in second.trajectories[0].rewards
    partner = two_players(world, ["h1"] * 9, {"h1": [False]})
    frozen = Rlad(group_size=2, trained="abstraction", solutions=1, leak_samples=0)
    group = await play(world, frozen, engine, solver=partner)
    assert [t.rewards["abstraction"] for t in group.trajectories] == [0.0, 0.0]
    assert len(partner.rows) == 2
    origins = {s.origin for t in group.trajectories for s in t.rows[0].segments}
    assert origins == {Origin.PROMPT, Origin.MODEL}
    with pytest.raises(UserError, match="frozen"):
        await play(world, plan, engine, solver=partner)


async def test_failures_are_refilled(world: Any) -> None:
    inner = two_players(world, ["h1"] * 9, {"h1": [True]})

    def once(row: Any, sampling: Sampling, index: int) -> Any:
        if index in (1, 3):
            raise EngineError("gone")
        return inner._script(np.asarray(row), sampling, index)

    plan = Rlad(group_size=2, trained="abstraction", solutions=2, leak_samples=0)
    group = await play(world, plan, world.script(once))
    assert [t.error for t in group.trajectories] == [None, None]
    assert [t.rewards["abstraction"] for t in group.trajectories] == [1.0, 1.0]


def test_options_are_checked() -> None:
    for wrong in ({"bare": 1.0}, {"solutions": 0}, {"leak_samples": -1}, {"hint": "Advice:"}):
        with pytest.raises(UserError):
            Rlad(**wrong)  # type: ignore[arg-type]
