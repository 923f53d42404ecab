"""RLoT: masks of the blocks, the scripted solver by hand, the navigator's numbers and what it learns."""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import cast

import numpy as np
import pytest

from agentrl.env import Action, StepResult
from agentrl.errors import UserError
from agentrl.testing.env_kit import check_env
from agentrl.testing.result import failures
from agentrl.types import Task
from agentrl_envs.rlot import Rlot
from agentrl_envs.rlot.blocks import Block, chosen, executed, read_scores, shown
from agentrl_envs.rlot.navigator import Navigator, Settings, combined, success, trained
from agentrl_envs.rlot.solver import advised, begun, expected, run, scores, written


@pytest.mark.parametrize(
    "options", [{}, {"style": "terse"}, {"view": "text"}, {"reward": "process"}, {"max_blocks": 20}]
)
async def test_every_promise_is_kept(options: dict[str, object]) -> None:
    assert not failures(await check_env(lambda: Rlot(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choice", "n_blocks", "answered", "run_as"),
    [
        ("refine", 0, False, "reason"),  # as the first move
        ("refine", 1, False, "refine"),
        ("decompose", 0, False, "decompose"),
        ("reason", 3, True, "terminate"),  # an answer is present
        ("debate", 6, False, "debate"),
        ("debate", 7, False, "terminate"),  # the eighth block of eight
        ("terminate", 0, False, "terminate"),
    ],
)
def test_masks_of_the_blocks(choice: Block, n_blocks: int, answered: bool, run_as: Block) -> None:
    assert executed(choice, n_blocks=n_blocks, answered=answered, most=8) == run_as


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("<answer>debate</answer>", "debate"),
        ("Not reason: <answer> Refine </answer>", "refine"),
        ("I decompose first.", "decompose"),
        ("<answer>reasoning</answer>", None),
        ("", None),
    ],
)
def test_naming_a_block(text: str, block: str | None) -> None:
    assert chosen(text) == block


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1 2 3 1 2 3 1", (1, 2, 3, 1, 2, 3, 1)),
        ("Scores: 3, 3, 3, 3, 3, 3, 3.", (3,) * 7),
        ("[1,1,1,2,2,2,3]", (1, 1, 1, 2, 2, 2, 3)),
        ("1 2 3 1 2 3", None),
        ("1 2 3 1 2 3 4", None),
        ("good", None),
    ],
)
def test_reading_a_self_evaluation(text: str, found: object) -> None:
    assert read_scores(text) == found
    assert shown(cast(None, found)).count("?") == (7 if found is None else 0)


def after(expression: str, *blocks: Block) -> str:
    work = begun(expression)
    for block in blocks:
        work = run(work, block)
    return written(work)


@pytest.mark.parametrize(
    ("expression", "blocks", "left"),
    [
        ("2+3*4", ("reason",), "5*4"),  # left to right
        ("2+3*4", ("debate", "reason"), "2+12"),
        ("2*(3+4)", ("reason",), "6+4"),  # the bracket dropped
        ("2*(3+4)", ("decompose", "reason"), "2*7"),
        ("2*(3+4-1)", ("decompose", "reason"), "2*(7-1)"),
        ("7*15", ("reason",), "75"),  # 7*5=35: the 3 is lost
        ("7*15", ("reason", "refine"), "105"),
        ("7*15", ("reason", "debate", "refine"), "75"),  # too late
        ("7*11", ("reason",), "77"),  # no carry to lose
        ("3*15", ("reason",), "45"),  # small enough to be done right
        ("7*15", ("reason", "refine", "reason"), "The answer is 105."),
        ("2+3*4", ("terminate",), "The answer is 0."),  # 5*4=20 with its carry lost
        ("3-8", ("reason",), "-5"),
        ("3-8+1", ("reason", "reason"), "-4"),
    ],
)
def test_the_scripted_solver(expression: str, blocks: tuple[Block, ...], left: str) -> None:
    assert after(expression, *blocks) == left


@pytest.mark.parametrize(
    ("expression", "blocks", "state"),
    [
        ("2+3", (), (3, 3, 3, 1, 1, 2, 3)),
        ("2+3*4", (), (2, 3, 3, 2, 3, 1, 3)),
        ("2*(3+4)+1+1", (), (1, 1, 3, 3, 3, 1, 3)),
        ("2+3*4", ("debate",), (3, 3, 3, 2, 1, 1, 3)),
        ("7*15", ("reason",), (3, 3, 1, 1, 1, 3, 3)),
        ("7*15", ("reason", "refine"), (3, 3, 3, 1, 1, 3, 3)),
        ("2+3", ("debate",), (3, 3, 3, 1, 1, 2, 1)),
    ],
)
def test_its_self_evaluation(expression: str, blocks: tuple[Block, ...], state: object) -> None:
    work = begun(expression)
    for block in blocks:
        work = run(work, block)
    assert scores(work) == state


def test_process_scores_follow_the_work_that_is_left() -> None:
    """The score of a step is whether a faultless continuation ends at the right answer."""
    work, worth = begun("2+7*15"), list[int]()
    for block in ("debate", "reason", "refine", "reason"):
        work = run(work, cast(Block, block))
        worth.append(expected(work))
    assert worth == [107, 77, 107, 107]
    assert expected(run(begun("2+7*15"), "reason")) == 9 * 15


async def played(env: Rlot, task: Task, *blocks: str) -> list[StepResult]:
    await env.reset(task, seed=0)
    return [await env.step(Action(f"<answer>{block}</answer>")) for block in blocks]


def task_of(expression: str, split: str = "train") -> Task:
    value = str(expected(begun(expression)))
    return Task(expression, f"{expression}=?", value, {"expression": expression, "split": split})


async def test_rewards_of_outcome_and_process() -> None:
    blocks = ("debate", "reason", "refine", "reason", "terminate")
    outcome = await played(Rlot(), task_of("2+7*15"), *blocks)
    assert [s.reward for s in outcome] == [0, 0, 0, 0, 1]
    assert (outcome[-1].info.answer, outcome[-1].terminated) == ("107", True)
    process = await played(Rlot(reward="process"), task_of("2+7*15"), *blocks)
    assert [s.reward for s in process] == [1, 0, 1, 1, 1]
    tested = await played(Rlot(reward="process"), task_of("2+7*15", "test"), *blocks)
    assert [s.reward for s in tested] == [0, 0, 0, 0, 1]
    wrong = await played(Rlot(), task_of("2+7*15"), "reason", "reason", "terminate")
    assert [s.reward for s in wrong] == [0, 0, 0]


async def test_what_the_navigator_reads() -> None:
    env = Rlot(style="terse")
    assert (await env.reset(task_of("2+3"), seed=0))[0].content == "3 3 3 1 1 2 3"
    assert (await env.step(Action("reason"))).observation[0].content == "3 3 3 1 1 3 3"
    text = Rlot(style="terse", view="text")
    assert (await text.reset(task_of("2+3"), seed=0))[0].content == "2+3=?\n3 3 3 1 1 2 3"
    assert (await text.step(Action("reason"))).observation[0].content == "5\n3 3 3 1 1 3 3"
    plain = (await Rlot().reset(task_of("2+3"), seed=0))[0].content
    assert "2+3" not in plain
    assert plain.endswith("closeness to the solution: 2\ncompleteness of this step: 3")


async def test_unreadable_choices_are_corrected_and_counted() -> None:
    env = Rlot(max_blocks=3)
    steps = await played(env, task_of("2+3"), "?", "?", "?")
    assert steps[0].observation[0].content.startswith("Name one of reason, decompose")
    assert [s.terminated for s in steps] == [False, False, True]
    assert steps[-1].reward == 1.0  # the cap's terminate reaches 5 all the same


async def test_an_answer_that_is_present_leaves_only_terminate() -> None:
    steps = await played(Rlot(), task_of("2+3"), "reason", "reason", "debate")
    assert [s.terminated for s in steps] == [False, False, True]


def test_tasks_and_splits() -> None:
    env = Rlot()
    train = {str(t.metadata["expression"]) for t in islice(env.tasks("train", seed=0), 300)}
    test = list(islice(env.tasks("test", seed=0), 300))
    assert not train & {str(t.metadata["expression"]) for t in test}
    for task in test:
        assert task.answer == str(eval(str(task.metadata["expression"])))  # noqa: S307  our own
        assert len(tuple(env.expert(task, seed=0))) <= 12


def test_the_navigators_numbers() -> None:
    """agentic.md section 18: 2,566 parameters; V=1, A=[1,2,3,4,5] -> Q=[-1,0,1,2,3]."""
    assert Navigator().n_parameters == 2566
    q = combined(np.array([1.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert q.tolist() == [-1, 0, 1, 2, 3]


def test_the_navigators_gradient_against_finite_differences() -> None:
    net, rng = Navigator(1), np.random.default_rng(0)
    states, taken, targets = rng.normal(size=(6, 7)), rng.integers(0, 5, 6), rng.normal(size=6)

    def loss() -> float:
        values = net.q(states)[np.arange(6), taken]
        return float(0.5 * np.mean((values - targets) ** 2))

    for parameter, slope in zip(net.parameters, net.gradient(states, taken, targets), strict=True):
        at = tuple(0 if size == 1 else size // 2 for size in parameter.shape)
        kept = parameter[at]
        parameter[at] = kept + 1e-6
        above = loss()
        parameter[at] = kept - 1e-6
        below = loss()
        parameter[at] = kept
        assert (above - below) / 2e-6 == pytest.approx(slope[at], abs=1e-6)


def test_the_navigator_learns_what_there_is_to_learn() -> None:
    env = Rlot(kinds=("mixed", "carry"), levels=(1, 2))
    held_out = list(islice(env.tasks("test", seed=0), 60))
    start = success(Navigator(1), held_out)
    settings = Settings(episodes=400)
    net = trained(env.tasks("train", seed=1), seed=1, settings=settings)
    assert start < 0.3
    assert success(net, held_out) > 0.9
    again = trained(env.tasks("train", seed=1), seed=1, settings=settings)
    assert all((a == b).all() for a, b in zip(net.parameters, again.parameters, strict=True))


def test_the_experts_rule_reads_the_scores_alone() -> None:
    seen: dict[object, Block] = {}
    rng = Random(0)
    for task in islice(Rlot().tasks("train", seed=0), 200):
        work = begun(str(task.metadata["expression"]))
        while work.answer is None:
            block = advised(work)
            assert seen.setdefault(scores(work), block) == block
            work = run(work, block if rng.random() < 0.8 else "reason")
    assert set(seen.values()) == {"reason", "decompose", "debate", "refine", "terminate"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("odd",)}, "choose some of sum, mixed"),
        ({"levels": ()}, "some of 1, 2 and 3"),
        ({"max_blocks": 0}, "at least 1"),
        ({"care": 1.5}, "a probability"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rlot(**options)  # type: ignore[arg-type]


async def test_a_careless_demonstrator_is_partly_wrong() -> None:
    env = Rlot(care=0.6)
    assert env.expert_floor is None
    won = list[float]()
    for task in islice(env.tasks("train", seed=0), 200):
        turns = list(env.expert(task, seed=0))
        assert turns == list(env.expert(task, seed=0))
        await env.reset(task, seed=0)
        steps = [await env.step(Action(turn)) for turn in turns]
        assert [s.terminated for s in steps] == [False] * (len(steps) - 1) + [True]
        won.append(steps[-1].reward)
    assert 0.5 < sum(won) / len(won) < 0.8


@pytest.mark.parametrize("kind", ["sum", "mixed", "bracket", "carry", "all"])
async def test_each_kind_alone_keeps_every_promise(kind: str) -> None:
    assert not failures(await check_env(lambda: Rlot(kinds=(kind,))))


async def test_a_fork_goes_its_own_way() -> None:
    env = Rlot(style="terse")
    await played(env, task_of("7*15"), "reason")
    (branch,) = await env.fork(1)
    await env.step(Action("refine"))
    assert (await env.step(Action("terminate"))).reward == 1.0
    assert (await branch.step(Action("terminate"))).info.answer == "75"


async def test_foreign_tasks_need_a_partner() -> None:
    with pytest.raises(UserError, match=r"use env\.solver=partner"):
        await Rlot().reset(Task("t", "why?", "2"), seed=0)
    with pytest.raises(UserError, match="splits train and test"):
        Rlot().tasks("dev", seed=0)
    assert Rlot(solver="partner").partners == ("solver",)
    assert Rlot(solver="partner", reward="process").partners == ("solver", "prm")
    assert Rlot().partners == ()
