"""Environments of the verifiers package, written with its classes and played by its own rollout.

Its pins do not fit beside this project's, so it runs in the Pythons named by
$AGENTRL_VERIFIERS_PYTHON (one with `pip install 'verifiers<0.2'`) and $AGENTRL_TASKSETS_PYTHON (one
with `pip install verifiers==0.4.0`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentrl.context import Context
from agentrl.env import Action, StepResult
from agentrl.errors import SetupError, UserError
from agentrl.testing import check_env
from agentrl.testing.result import failures
from agentrl.types import Task, ToolCall
from agentrl_envs.verifiers import Verifiers, WorkerLost

PYTHON = os.environ.get("AGENTRL_VERIFIERS_PYTHON", "")
NEWER = os.environ.get("AGENTRL_TASKSETS_PYTHON", "")
HERE = Path(__file__).parent / "verifiers_toys"
N = 32
real = pytest.mark.skipif(not PYTHON, reason="needs verifiers: set AGENTRL_VERIFIERS_PYTHON")


newer = pytest.mark.skipif(not NEWER, reason="needs verifiers 0.4: set AGENTRL_TASKSETS_PYTHON")


def make(**options: Any) -> Verifiers:
    given = {"id": "agentrl-toys", "args": {"n": N}, "python": PYTHON, "path": [str(HERE)]}
    return Verifiers(**(given | options))


def row(index: int) -> Task:
    return Task(f"t/{index}", "?", metadata={"split": "train", "index": index})


SINGLE, TOOL, GUESSING, FORGETFUL = (row(kind * N + 5) for kind in range(4))


@asynccontextmanager
async def live(task: Task, **options: Any) -> AsyncIterator[Verifiers]:
    env = make(**options)
    try:
        await env.open(Context())
        first = await env.reset(task, seed=0)
        i = task.metadata["index"]
        assert [(message.role, message.content) for message in first] == [
            ("system", "Answer in <answer> tags."),
            ("user", f"What is {i} + {i}?"),
        ]
        yield env
    finally:
        await env.close()


async def call(env: Verifiers, *calls: tuple[str, dict[str, Any]]) -> StepResult:
    text = "".join(f"<call{i}>" for i in range(len(calls)))
    made = [ToolCall(f"c{i}", name, given, f"<call{i}>") for i, (name, given) in enumerate(calls)]
    return await env.step(Action(f"Well. {text}", tuple(made)))


@real
async def test_one_turn_and_the_rubric_as_reward() -> None:
    async with live(SINGLE) as env:
        assert env.tools == ()
        step = await env.step(Action("<answer>10</answer>"))
        # right counts 1, brevity (one message) 0.25
        assert (step.reward, step.terminated, step.observation) == (1.25, True, ())
    async with live(SINGLE) as env:
        assert (await env.step(Action("<answer>11</answer>"))).reward == 0.25


@real
async def test_its_tools_run_there() -> None:
    async with live(TOOL) as env:
        (tool,) = env.tools
        assert (tool.name, tool.description) == ("add", "Add two numbers.")
        assert set(tool.schema["properties"]) == {"a", "b"}
        step = await call(env, ("add", {"a": 1, "b": 2}), ("add", {"a": 13, "b": 0}))
        assert [(m.role, m.content, m.call_id) for m in step.observation] == [
            ("tool", "3", "c0"),
            ("tool", "unlucky", "c1"),
        ]
        assert [result.content for result in step.info.results] == ["3", "unlucky"]
        step = await env.step(Action("<answer>74</answer>"))
        assert (step.reward, step.terminated) == (1.0, True)


@real
async def test_turns_that_it_answers_until_its_limit() -> None:
    async with live(GUESSING) as env:
        said = [await env.step(Action(text)) for text in ("0", "999")]
        assert [step.observation[0].content for step in said] == ["higher", "lower"]
        assert [step.info.context for step in said] == [None, None]
        last = await env.step(Action("138"))
        assert (last.reward, last.terminated) == (0.0, True)  # max_turns ends before the answer
    async with live(GUESSING) as env:
        await env.step(Action("0"))
        assert (await env.step(Action("138"))).reward == 1.0


@real
async def test_a_rewritten_history_begins_a_row_of_its_own() -> None:
    async with live(FORGETFUL) as env:
        step = await env.step(Action("0"))
        assert step.info.context == "rewritten_1"
        assert [(m.role, m.content) for m in step.observation] == [
            ("system", "Answer in <answer> tags."),
            ("user", "What is 101 + 101?"),
            ("user", "higher"),
        ]
        again = await env.step(Action("999"))
        assert (again.info.context, again.observation[-1].content) == ("rewritten_2", "lower")
        assert (await env.step(Action("202"))).reward == 1.0


@real
async def test_episodes_side_by_side_and_given_up() -> None:
    async with live(GUESSING) as one, live(TOOL) as two:
        assert (await one.step(Action("0"))).observation[0].content == "higher"
        assert (await call(two, ("add", {"a": 2, "b": 2}))).observation[0].content == "4"
        await one.reset(SINGLE, seed=0)  # gives the first rollout up
        assert (await one.step(Action("<answer>10</answer>"))).reward == 1.25
        assert (await two.step(Action("<answer>74</answer>"))).reward == 1.0


@real
def test_rows_are_tasks() -> None:
    env = make()
    train = list(islice(env.tasks("train", seed=1), 4 * N))
    assert len({task.id for task in train}) == 4 * N
    assert train == list(islice(make().tasks("train", seed=1), 4 * N))
    assert train != list(islice(make().tasks("train", seed=2), 4 * N))
    test = list(islice(env.tasks("test", seed=1), 24))
    assert not {task.id for task in train} & {task.id for task in test}
    numbers = {int(task.question.split()[2]) for task in test}
    assert min(numbers) >= 1000
    for task in train[:5]:
        assert task.answer == str(2 * int(task.question.split()[2]))
    with pytest.raises(UserError, match="splits train and test"):
        env.tasks("dev", seed=0)


@real
async def test_it_keeps_the_contract() -> None:
    assert failures(await check_env(make)) == []
    assert make().random_turn(Random(3)) == make().random_turn(Random(3))


@real
async def test_a_process_that_dies_is_replaced() -> None:
    async with live(TOOL, args={"n": N, "own_eval": False}) as env:
        train = {task.id for task in islice(env.tasks("train", seed=0), 115)}
        held = {task.id for task in islice(env.tasks("test", seed=0), 13)}
        assert len(held) == 13  # a tenth of 128, for want of data of its own
        assert len(train | held) == 4 * N
        with pytest.raises(WorkerLost, match="ended during a request"):
            await call(env, ("add", {"a": 99, "b": 0}))
    async with live(SINGLE, args={"n": N, "own_eval": False}) as env:
        assert (await env.step(Action("<answer>10</answer>"))).reward == 1.25


@real
async def test_what_cannot_be_loaded() -> None:
    with pytest.raises(UserError, match="has no environment 'no-such-env'"):
        await make(id="no-such-env").open(Context())
    with pytest.raises(UserError, match="no licence"):
        await make(args={"broken": True}).open(Context())


@newer
async def test_a_taskset_of_the_present_version() -> None:
    options: dict[str, Any] = {"id": "agentrl-sums", "python": NEWER}
    env = make(**options, args={"n": 40, "task": {"with_tools": True}})
    tasks = list(islice(env.tasks("train", seed=0), 36))
    held = list(islice(env.tasks("test", seed=0), 4))
    assert len({task.id for task in [*tasks, *held]}) == 40
    task = tasks[0]
    await env.open(Context())
    first = await env.reset(task, seed=0)
    assert [(m.role, m.content) for m in first] == [
        ("system", "Be short."),
        ("user", task.question),
    ]
    assert [(tool.name, tool.description) for tool in env.tools] == [("add", "Adds two numbers.")]
    step = await call(env, ("add", {"a": 40, "b": 2}), ("nope", {}))
    assert [message.content for message in step.observation] == [
        "42",
        "There is no tool named 'nope'. Tools: add.",
    ]
    assert task.answer == str(int(task.question.partition("+")[0]) + 1)
    step = await env.step(Action(f"It is {task.answer}."))
    assert (step.reward, step.terminated, step.truncated) == (1.0, True, False)
    await env.close()


@newer
async def test_an_older_environment_under_the_present_version() -> None:
    with pytest.raises((SetupError, UserError), match=r"needs verifiers<0.2|cannot be loaded"):
        await make(python=NEWER).open(Context())


async def test_a_python_without_verifiers(tmp_path: Path) -> None:
    bare = tmp_path / "python"  # sees nothing of what is installed here
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(SetupError, match=r"has no verifiers; give it a Python of its own"):
        await make(python=str(bare)).open(Context())


async def test_a_program_that_is_no_python() -> None:
    with pytest.raises(WorkerLost, match="ended during"):
        await make(python="true").open(Context())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"id": ""}, "name the verifiers environment"),
        ({"holdout": 1.0}, "holdout"),
        ({"answer_s": 0}, "above 0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Verifiers(**({"id": "x"} | options))


async def test_a_python_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no program 'no-such-python'"):
        await make(python="no-such-python").open(Context())
