"""INSPO: choice, credit, pruning and renewal by hand; nothing of it leaks into a group's baseline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl.engine.base import Sampling
from agentrl.errors import UserError, WorldFault
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.inspo import USED, Inspo
from agentrl.rollout.plans.instructions import (
    Instruction,
    chosen,
    probabilities,
    pruned,
    recombined,
)
from agentrl.trajectory import Group

CTX = Ctx(step=0, total_steps=9, seed=0)
TWO = ("Alpha one. Alpha two.", "Beta one. Beta two.")


def test_the_choice_by_weight() -> None:
    assert probabilities([0.5, 0.3], 0.1) == pytest.approx([0.8808, 0.1192], abs=1e-4)
    assert probabilities([0.5, 0.3], 0.2) == pytest.approx([0.7311, 0.2689], abs=1e-4)
    two = (Instruction(0, "a", 0.5), Instruction(1, "b", 0.3))
    drawn = Counter(chosen(two, 0.1, round(2**63 * (i + 0.5) / 1000)).number for i in range(1000))
    assert drawn[0] == 881


def test_the_better_half_stays() -> None:
    four = [Instruction(i, "x", w) for i, w in enumerate((0.4, 0.1, 0.3, 0.2))]
    assert [m.number for m in pruned(four)] == [0, 2]
    assert [m.number for m in pruned(four[:1])] == [0]


def test_children_of_two_have_sentences_of_both() -> None:
    made = {recombined("A. B! C?", "x. y.", seed) for seed in range(40)}
    assert made == {f"{a} {b} C?" for a in ("A.", "x.") for b in ("B!", "y.")}
    assert recombined("Same.", "Same.", 3) == "Same."


class Judge:
    def __init__(self, *replies: str | None) -> None:
        self.replies, self.prompts = list(replies), list[str]()

    async def grade(self, prompt: str) -> str:
        self.prompts.append(prompt)
        reply = self.replies.pop(0)
        if reply is None:
            raise WorldFault("gone")
        return reply


def obedient(world: Any) -> Any:
    """Right under an instruction that says `win`, wrong under any other."""

    def write(row: Any, sampling: Sampling, index: int) -> str:
        text = world.renderer.tokenizer.decode(np.asarray(row))
        return "<answer>4</answer>" if "win" in text else "no"

    return write


def services(world: Any, judge: Judge | None = None) -> Services:
    parts = world.parts(world.script(obedient(world)))
    return Services(episodes=Episodes(parts, seed=1), judge=judge)


async def step(
    plan: Inspo, world: Any, at: int, judge: Judge | None = None, n: int = 4
) -> list[Group]:
    """`n` tasks played and observed, each member paid what the environment gave it."""
    ctx = replace(CTX, step=at)
    tasks = [replace(world.task, id=f"t{i}") for i in range(n)]
    groups = [await plan.collect(task, services(world, judge), ctx) for task in tasks]
    paid = [
        replace(g, trajectories=tuple(replace(t, reward=t.rewards["env"]) for t in g.trajectories))
        for g in groups
    ]
    plan.observe(paid, ctx)
    return paid


async def test_credit_goes_to_the_instruction_that_was_used(world: Any) -> None:
    """w <- .9 w + .1 mean reward, once per group; one group works under one instruction."""
    plan = Inspo(group_size=2, instructions=("win.", "lose."), proxy=0)
    groups = await step(plan, world, 0)
    used = [{t.rewards[USED] for t in g.trajectories} for g in groups]
    assert all(len(numbers) == 1 for numbers in used)
    n = sum(numbers == {0.0} for numbers in used)
    assert 0 < n < 4, "both are tried while their weights are equal"
    assert plan.population[0].weight == pytest.approx(1 - 0.9**n)
    assert plan.population[1].weight == 0.0
    system = groups[0].trajectories[0].messages[0]
    assert system.role == "system"
    assert system.content.startswith(("win.", "lose."))
    quick = Inspo(group_size=2, instructions=("win.", "lose."), proxy=0, decay=0.5)
    await step(quick, world, 0)
    assert quick.population[0].weight == pytest.approx(1 - 0.5**n)


async def test_without_a_judge_children_are_recombined(world: Any) -> None:
    """Two of four survive; each child takes its sentences, place by place, from both of them."""
    texts = ("win A. win B.", "win C. win D.", "E. F.", "G. H.")
    plan = Inspo(group_size=1, instructions=texts, every=1, proxy=0)
    await step(plan, world, 0, n=12)
    assert [m.number for m in plan.population] == [0, 1]
    weights = sorted((m.weight for m in plan.population), reverse=True)
    await plan.collect(world.task, services(world), replace(CTX, step=1))
    assert [m.number for m in plan.population] == [0, 1, 4, 5], "numbers are not given twice"
    for child in plan.population[2:]:
        assert child.text in {
            f"{a} {b}" for a in ("win A.", "win C.") for b in ("win B.", "win D.")
        }
    assert [m.weight for m in plan.population[2:]] == pytest.approx(weights)
    slow = Inspo(group_size=1, instructions=texts, every=2, proxy=0)
    await step(slow, world, 0)
    assert len(slow.population) == 4, "turned: pruned every second step only"


async def test_the_judge_reads_failures_and_writes(world: Any) -> None:
    plan = Inspo(group_size=2, instructions=("lose.", "fail."), every=2, proxy=0, failures=3)
    judge = Judge("It never wins. <instruction>win!</instruction>", "no tags", None)
    await step(plan, world, 0)
    await step(plan, world, 1)
    (survivor,) = plan.population
    await step(plan, world, 2, judge)
    assert [m.text for m in plan.population] == [survivor.text, "win!"]
    assert plan.population[1].number == 2
    assert len(judge.prompts) == 1, "one child, however many groups wait"
    assert judge.prompts[0].count("(reward 0)") == 3
    assert survivor.text in judge.prompts[0]
    await step(plan, world, 3)
    await step(plan, world, 4, judge)
    assert len(plan.population) == 2, "a reply without an instruction is recombined instead"


@pytest.mark.parametrize(
    ("written", "proxy", "kept"), [("win!", 2, "win!"), ("lose!", 2, "win."), ("lose!", 0, "lose!")]
)
async def test_a_child_that_does_worse_is_not_kept(
    world: Any, written: str, proxy: int, kept: str
) -> None:
    plan = Inspo(group_size=1, instructions=("win.", "lose."), every=1, proxy=proxy)
    await step(plan, world, 0, n=6)
    assert [m.text for m in plan.population] == ["win."]
    judge = Judge(f"<instruction>{written}</instruction>")
    ctx = replace(CTX, step=1)
    await plan.collect(world.task, services(world, judge), ctx)
    assert [m.text for m in plan.population] == ["win.", kept]
    assert plan.population[1].weight == plan.population[0].weight


async def test_it_goes_on_from_a_checkpoint(world: Any) -> None:
    def fresh() -> Inspo:
        return Inspo(group_size=2, instructions=(*TWO, "win.", "win now."), every=2, proxy=3)

    one, two = fresh(), fresh()
    for at in range(2):
        await step(one, world, at)
    two.restore(json.loads(json.dumps(one.state())))
    for plan in (one, two):
        for at in range(2, 5):
            await step(plan, world, at)
    assert one.state() == two.state()
    assert one.state() != fresh().state()


def test_options_are_checked() -> None:
    wrong: Sequence[dict[str, Any]] = ({"instructions": ("a",)}, {"tau": 0.0}, {"every": 0})
    for options in wrong:
        with pytest.raises(UserError):
            Inspo(**options)
