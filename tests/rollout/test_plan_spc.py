"""SPC: steps, verdicts, zero-sum wins, errors that do not break anything, and the offline ratio."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.algo.losses import SequenceRatio
from agentrl.engine.base import Sampling
from agentrl.errors import EngineError, UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.spc import Spc, steps_of, verdict
from agentrl.trajectory import Group
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=4, seed=0)
SOLUTION = "one\ntwo\n<answer>4</answer>"


def test_steps_and_verdicts() -> None:
    assert steps_of("a\nb\n\nc") == ["a\n", "b\n", "\n", "c"]
    assert steps_of("A is 1. B is 2! So.") == ["A is 1. ", "B is 2! ", "So."]
    assert steps_of("one") == ["one"]
    assert verdict("x <Answer>Correct</Answer>") is True
    assert verdict("<answer> correct </answer> no, <Answer>incorrect</Answer>") is False
    assert verdict("Correct") is None


def game(
    world: Any,
    *,
    sneaks: tuple[str, ...] = ("BROKEN\n",),
    critic: str = "honest",
    solved: tuple[str, ...] = (SOLUTION,),
) -> Any:
    """Solves as told; going on behind BROKEN fails; a critic that sees everything, or nothing."""
    attempts, rewritten = 0, 0

    def write(row: Any, sampling: Sampling, index: int) -> str:
        nonlocal attempts, rewritten
        text = world.renderer.tokenizer.decode(np.asarray(row))
        if "Rewrite that step" in text:
            rewritten += 1
            return sneaks[(rewritten - 1) % len(sneaks)]
        if "Is that step correct?" in text:
            seen = "BROKEN" in text if critic == "honest" else critic == "harsh"
            return f"<Answer>{'Incorrect' if seen else 'Correct'}</Answer>"
        if "BROKEN" in text:
            return "<answer>5</answer>"
        if "one\n" in text or "HARMLESS" in text:
            return "<answer>4</answer>"
        attempts += 1
        return solved[(attempts - 1) % len(solved)]

    return world.script(write)


async def play(world: Any, plan: Spc, engine: Any, step: int = 0, **partners: Any) -> Group:
    given = {"self": engine, **partners}
    parts = world.parts(engine, partners=given)
    services = Services(episodes=Episodes(parts, seed=1, in_flight=1), partners=given)
    return await plan.collect(world.task, services, replace(CTX, step=step))


@pytest.mark.parametrize(
    ("critic", "on_errors", "on_steps"),
    [("honest", 1.0, 1.0), ("harsh", 1.0, 0.0), ("blind", 0.0, 1.0)],
)
async def test_critics_of_broken_and_whole_steps(
    world: Any, critic: str, on_errors: float, on_steps: float
) -> None:
    plan = Spc(group_size=4, trained="critic", attempts=2, completions=2)
    group = await play(world, plan, game(world, critic=critic))
    assert [t.rewards for t in group.trajectories] == [
        {"env": on_errors, "spc/caught": on_errors},
        {"env": on_errors, "spc/caught": on_errors},
        {"env": on_steps, "spc/cleared": on_steps},
        {"env": on_steps, "spc/cleared": on_steps},
    ]
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3]
    prompts = [t.messages[-2].content for t in group.trajectories]
    assert ["BROKEN" in p for p in prompts] == [True, True, False, False]
    assert all(t.n_sampled > 0 for t in group.trajectories)


@pytest.mark.parametrize("critic", ["honest", "blind"])
async def test_what_one_side_wins_the_other_loses(world: Any, critic: str) -> None:
    """Rewritings alternate between one that breaks the solution and one that does not."""
    plan = Spc(group_size=4, trained="sneaky", attempts=1, completions=2)
    engine = game(world, sneaks=("BROKEN\n", "HARMLESS\n"), critic=critic)
    group = await play(world, plan, engine)
    fooled = 0.0 if critic == "honest" else 1.0
    assert [t.excluded for t in group.trajectories] == [None, "harmless"] * 2
    assert [t.rewards["env"] for t in group.counted.trajectories] == [fooled, fooled]
    assert [t.sibling for t in group.trajectories] == [0, 1, 2, 3]


async def test_the_bar_for_an_error(world: Any) -> None:
    """Of two that go on behind the step both succeed, behind BROKEN none: a drop of 1.0."""
    half = Spc(group_size=2, trained="critic", attempts=1, completions=2, drop=1.0)
    group = await play(world, half, game(world))
    assert "spc/caught" in group.trajectories[0].rewards
    group = await play(world, half, game(world, sneaks=("HARMLESS\n",)))
    assert [set(t.rewards) for t in group.trajectories] == [{"env", "spc/cleared"}] * 2

    def mixed(row: Any, sampling: Sampling, index: int) -> Any:
        text = world.renderer.tokenizer.decode(np.asarray(row))
        if "BROKEN" in text and "Is that" not in text:
            return "<answer>4</answer>" if sampling.seed % 2 else "<answer>5</answer>"
        return inner._script(np.asarray(row), sampling, index)

    inner = game(world)
    strict = Spc(group_size=2, trained="critic", attempts=1, completions=8, drop=1.0)
    group = await play(world, strict, world.script(mixed))
    assert "spc/caught" not in group.trajectories[0].rewards
    inner = game(world)
    easy = Spc(group_size=2, trained="critic", attempts=1, completions=8, drop=0.1)
    group = await play(world, easy, world.script(mixed))
    assert "spc/caught" in group.trajectories[0].rewards, "turned: some drop is enough"


async def test_an_unsolved_task_has_nothing_to_judge(world: Any) -> None:
    plan = Spc(group_size=4, attempts=3)
    group = await play(world, plan, game(world, solved=("no",)))
    assert [t.excluded for t in group.trajectories] == ["unsolved"] * 3
    assert group.counted.trajectories == ()
    later = await play(world, plan, game(world, solved=("no", "no", SOLUTION)))
    assert len(later.trajectories) == 4


async def test_roles_alternate_partners_play_and_failures_are_refilled(world: Any) -> None:
    plan = Spc(group_size=2, attempts=1, completions=1)
    engine = game(world)
    first, second = [await play(world, plan, engine, step) for step in (0, 1)]
    assert any("spc/cleared" in t.rewards for t in first.trajectories)
    assert all(set(t.rewards) == {"env"} for t in second.trajectories)
    blind = game(world, critic="blind")
    trained = Spc(group_size=2, trained="sneaky", attempts=1, completions=1)
    group = await play(world, trained, engine, critic=blind)
    assert [t.rewards["env"] for t in group.trajectories] == [1.0, 1.0]
    origins = {s.origin for t in group.trajectories for s in t.rows[0].segments}
    assert origins == {Origin.PROMPT, Origin.MODEL}
    with pytest.raises(UserError, match="frozen"):
        await play(world, plan, engine, critic=blind)
    inner, failed = game(world), 0

    def once(row: Any, sampling: Sampling, index: int) -> Any:
        nonlocal failed
        failed += index == 4
        if index == 4:
            raise EngineError("gone")
        return inner._script(np.asarray(row), sampling, index)

    group = await play(world, plan, world.script(once))
    assert failed == 1
    assert [t.error for t in group.trajectories] == [None, None]


def test_the_offline_ratio_of_the_mean_logprobs() -> None:
    """exp(-.5 + .9) = 1.4918: A = 1 is clipped at 1.2, A = -1 is not."""
    now, old = torch.full((2, 3), -0.5), torch.tensor([[-1.2, -0.9, -0.6]] * 2)
    advantages = torch.tensor([[1.0] * 3, [-1.0] * 3])
    mask = torch.ones(2, 3, dtype=torch.bool)
    losses, _ = SequenceRatio(mean=True)(now, old, advantages, mask)
    assert losses[0].tolist() == pytest.approx([-1.2] * 3)
    assert losses[1].tolist() == pytest.approx([1.4918] * 3, abs=1e-4)


def test_options_are_checked() -> None:
    for wrong in ({"attempts": 0}, {"drop": 0.0}, {"completions": 0}):
        with pytest.raises(UserError):
            Spc(**wrong)  # type: ignore[arg-type]
