"""The recipes of plans that hint, force, reopen and mix: their constants turned, the groups change.

Each check composes the recipe as it is and with other words, builds the plan its file names, and plays
it with a scripted engine.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch

from agentrl.compose import compose
from agentrl.config import RunConfig
from agentrl.plugins import build
from agentrl.points import Ctx
from agentrl.rollout.plans.cure import top_entropies
from agentrl.rollout.plans.stage import ExpertTurn, Stage
from agentrl.trajectory import Group
from agentrl.transcript import Float32Array, Origin, floats_array

Collect = Callable[..., Awaitable[Group]]
Check = Callable[[Any, Collect, RunConfig, RunConfig], Awaitable[None]]
CASES: list[tuple[str, tuple[str, ...], Check]] = []


def turned(recipe: str, *words: str) -> Callable[[Check], Check]:
    """Enter a check into the table: the recipe, and the words that turn its constant."""

    def enter(check: Check) -> Check:
        CASES.append((recipe, words, check))
        return check

    return enter


class Even:
    """A scorer that gives every token the same."""

    async def logprobs(self, model: str, rows: Any) -> list[Float32Array]:
        return [floats_array([-1.5] * len(row)) for row in rows]


@pytest.fixture
def collect(world: Any, served: Any) -> Collect:
    def experts(task: Any, seed: int) -> list[ExpertTurn]:
        texts = ("<code>2+2</code>", "<answer>4</answer>")
        return [ExpertTurn(t, world.renderer.demo(t, ended=t.endswith("r>"))) for t in texts]

    async def play(config: RunConfig, turn: Any, *, step: int = 0, **given: Any) -> Group:
        plan = build(
            "plan",
            config.rollout.plan,
            group_size=config.rollout.group_size,
            renderer=world.renderer,
            expert=experts,
        )
        services = served(turn, scorer=Even(), **given)
        return await plan.collect(world.task, services, Ctx(step=step, total_steps=11, seed=1))

    return play


def wrong(text: str, seed: int) -> str:
    return "<answer>5</answer>"


def rest(text: str, seed: int) -> str:
    """What follows a forced `<answer>` or `<code>`."""
    return "4</answer>" if text.endswith("<answer>") else "2+2</code>"


@turned("adaptthink", "rollout.plan.share=0.25")
async def the_forcing_has_its_probability(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    for config, share, n in ((before, 0.5, 4), (after, 0.25, 2)):
        group = await collect(config, rest, max_turns=1)
        first = [t.rows[0].segments[1] for t in group.trajectories]
        texts = [world.renderer.tokenizer.decode(s.token_ids) for s in first]
        assert texts == ["<answer>"] * n + ["<code>"] * (8 - n)
        wanted = [math.log(share)] * n + [math.log(1 - share)] * (8 - n)
        assert [float(s.logprobs[0]) for s in first] == pytest.approx(wanted)


@turned("rex_rag", "rollout.plan.probability=0.6")
async def some_of_the_wrong_are_cloned(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    """As many as draws of theirs fall below p; a originals' tokens are then pi / (1 + clones / 8)."""
    stage = Stage(world.task, None, Ctx(step=0, total_steps=11, seed=1))  # type: ignore[arg-type]
    draws = [stage.rng("rex_rag", i).random() for i in range(8)]
    counts: list[int] = []
    for config, p in ((before, 0.2), (after, 0.6)):
        group = await collect(
            config, lambda t, s: rest(t, s) if t.endswith("<code>") else wrong(t, s)
        )
        n = sum(draw < p for draw in draws)
        counts.append(n)
        assert len(group.trajectories) == 8 + n
        row = group.trajectories[0].rows[0]
        at = int(row.mask.nonzero()[0][0])
        plain = -0.1 - 0.05 * (at % 7)
        assert float(row.logprobs[at]) == pytest.approx(plain - math.log(1 + n / 8), abs=1e-5)
    assert counts[0] < counts[1]


@turned("cure", "rollout.plan.top=1")
async def the_critical_token_is_one_of_the_uncertain(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    offsets: dict[int, set[int]] = {20: set(), 1: set()}
    for config, top in ((before, 20), (after, 1)):
        for step in range(6):
            group = await collect(config, lambda *_: "some words <answer>5</answer>", step=step)
            root, branch = group.trajectories[0], group.trajectories[2]
            best = top_entropies(root.rows[0], 1, lambda i: i not in world.renderer.stop_ids)[0]
            offsets[top].add(int(branch.fork_tokens or 0) - best)
    assert offsets[1] == {0}
    assert len(offsets[20]) > 2


@turned("cure", "rollout.plan.stage_one=0.2")
async def branching_ends_with_stage_one(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    for config, last in ((before, 6), (after, 2)):
        for step in range(0, 11, 2):
            group = await collect(config, wrong, step=step)
            branched = any(t.parent is not None for t in group.trajectories)
            assert branched == (step <= last)


@turned("guide", "rollout.plan.template=' (use {hint})'", "rollout.group_size=3")
async def a_failed_group_reads_the_hint(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    for config, k, shown in (
        (before, 2, "Q <code>2+2</code>"),
        (after, 3, "Q (use <code>2+2</code>)"),
    ):
        group = await collect(config, wrong)
        assert [t.messages[1].content for t in group.trajectories] == ["Q"] * k + [shown] * k


@turned("ruscarl", "rollout.plan.midpoint=0.6")
async def the_scaffold_falls_at_its_midpoint(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    """One criterion is shown where lam rounds to 1: to the first four of eight."""
    for config, last in ((before, 1), (after, 5)):
        for step in (0, 1, 3, 5, 7, 10):
            group = await collect(config, wrong, step=step)
            hinted = [t.rows[0].train_context is not None for t in group.trajectories]
            assert hinted == [step <= last and i < 4 for i in range(8)]


@turned("rgr_grpo", "algo.loss.gamma=0.3")
@turned("luffy", "algo.loss.gamma=0.3")
async def foreign_probabilities_are_shaped(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    """p = .2: .2 / .3 and .2 / .5."""
    group = await collect(before, wrong)
    foreign = group.trajectories[-1].rows[0]
    assert foreign.logprobs[foreign.mask].tolist() == [0.0] * foreign.n_sampled
    one = torch.ones(1, foreign.n_sampled)
    old = torch.tensor(foreign.logprobs[foreign.mask])[None]
    for config, wanted in ((before, 2 / 3), (after, 0.4)):
        loss = build("loss", config.algo.loss)
        losses, _ = loss(one * math.log(0.2), old, one, one.bool())
        assert losses[0].tolist() == pytest.approx([-wanted] * foreign.n_sampled)


@turned("luffy", "rollout.plan.experts=3")
async def so_many_are_the_experts(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    for config, n in ((before, 1), (after, 3)):
        group = await collect(config, wrong)
        assert [t.correct for t in group.trajectories] == [False] * (8 - n) + [True] * n


@turned("cog_rethinker", "rollout.plan.tries=3", "algo.aux=[{name: supervised, coef: 0.4}]")
async def right_answers_of_later_stages_are_imitated(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    def refined(text: str, seed: int) -> str:
        return "<answer>4</answer>" if "5</answer>" in text else wrong(text, seed)

    for config, n, coef in ((before, 2, 0.1), (after, 3, 0.4)):
        group = await collect(config, refined)
        assert [t.correct for t in group.trajectories] == [False] * 2 + [True] * n
        origins = group.trajectories[-1].rows[0].origins.tolist()
        assert int(Origin.DEMO) in origins
        assert config.algo.aux[0].given["coef"] == coef


@turned("cort_hints", "rollout.plan.max_hints=2")
async def answers_by_hand_are_reopened(
    world: Any, collect: Collect, before: RunConfig, after: RunConfig
) -> None:
    def stubborn(text: str, seed: int) -> str:
        return "<answer>4</answer>"

    for config, n in ((before, 1), (after, 2)):
        group = await collect(config, stubborn, max_turns=1)
        assert [t.rewards["hints/placed"] for t in group.trajectories] == [float(n)] * 8


@pytest.mark.parametrize(
    ("name", "words", "check"), CASES, ids=[f"{n}-{c.__name__}" for n, _, c in CASES]
)
async def test_turning_a_constant(
    name: str, words: tuple[str, ...], check: Check, world: Any, collect: Collect
) -> None:
    base = ["env=retool_math", f"recipe={name}"]
    await check(world, collect, compose(base), compose([*base, *words]))
