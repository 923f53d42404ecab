"""Questions with tools named in the config."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from agentrl.compose import compose
from agentrl.config import Plugin
from agentrl.context import Context
from agentrl.env import Action, Observation
from agentrl.errors import UserError
from agentrl.plugins import build
from agentrl.registry import register
from agentrl.rollout.limits import Lease
from agentrl.testing import check_env
from agentrl.testing.fakes import FakePool
from agentrl.testing.result import failures
from agentrl.tool import Tool, tool
from agentrl.toolset import Toolset
from agentrl.types import Task, ToolCall
from agentrl_envs.toolbox import Toolbox

TASK = Task("q/1", "What is 6 * 7?", "42")


@tool
async def twice(n: int) -> str:
    """Doubles a number.

    Args:
        n: the number.
    """
    return str(2 * n)


register("tool", "test_twice", lambda: twice)
register("tool", "test_ready", twice)


async def judged(answer: str, gold: str, **options: Any) -> tuple[float, str | None]:
    box = Toolbox(**options)
    await box.open(Context())
    await box.reset(Task("t", "?", gold), seed=0)
    result = await box.step(Action(answer))
    assert result.terminated
    await box.close()
    return result.reward, result.info.answer


async def test_what_makes_an_answer_right() -> None:
    assert await judged("So <answer>The Answer.</answer>", "answer") == (1.0, "The Answer.")
    assert await judged("So <answer>an answer or two</answer>", "answer") == (
        0.0,
        "an answer or two",
    )
    assert await judged("it is \\boxed{answer or two}", "answer", check="contains") == (
        1.0, "answer or two"
    )  # fmt: skip
    # Two of three said words are gold, two of two gold words are said: F1 = 2*(2/3)*1/(2/3+1).
    assert (await judged("red big dog", "big dog", check="f1"))[0] == pytest.approx(0.8)
    assert await judged("<answer>1/2</answer>", "0.5", check="math") == (1.0, "1/2")
    assert await judged("<answer>1/3</answer>", "0.5", check="math") == (0.0, "1/3")
    assert await judged("42", "42") == (1.0, "42")


async def test_an_episode_with_tools_of_the_config() -> None:
    tree = compose(["env=toolbox", "env.tools=[{name: python, timeout_s: 2}, test_ready]"])
    box = build("env", tree.env)
    assert isinstance(box, Toolbox)
    pool = FakePool(["42"])
    await box.open(Context(lease_sandbox=Lease(pool).get))
    first: Observation = await box.reset(TASK, seed=0)
    assert [message.role for message in first] == ["system", "user"]
    assert first[1].content == TASK.question
    calls = (ToolCall("1", "python", {"code": "6*7"}), ToolCall("2", "test_ready", {}))
    step = await box.step(Action("", calls))
    assert step.info.results[0].content == "42"
    assert step.info.results[1].error == "unknown_tool"  # its own name is what counts
    step = await box.step(Action("", (ToolCall("3", "twice", {"n": 4}),)))
    assert step.info.results[0].content == "8"
    step = await box.step(Action("<answer>42</answer>"))
    assert (step.reward, step.terminated) == (1.0, True)
    await box.close()


async def test_it_keeps_the_contract() -> None:
    def make() -> Toolbox:
        return Toolbox(tools=["test_twice"])

    results = await check_env(make, tasks=[TASK, Task("q/2", "And 1 + 1?", "2")])
    assert failures(results) == []
    turn = make().random_turn(Random(1))
    assert turn == make().random_turn(Random(1))


class Drawer:
    """A toolset that brings one tool and counts who has it open."""

    label = "drawer"

    def __init__(self) -> None:
        self.connections = 0

    async def connect(self, ctx: Context) -> list[Renamed]:
        self.connections += 1
        return [Renamed("twice")]

    async def close(self) -> None:
        self.connections -= 1


class Renamed:
    description = "Does something or other."
    parallel = False
    schema: dict[str, Any] = {"type": "object", "properties": {}}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.name = name

    def renamed(self, name: str) -> Renamed:
        return Renamed(name)

    async def open(self, ctx: Context) -> None: ...
    async def close(self) -> None: ...

    async def __call__(self) -> str:
        return self.name

    async def fork(self, n: int) -> list[Renamed]:
        return [self] * n


async def test_a_toolset_is_connected_renamed_copied_and_closed() -> None:
    drawer = Drawer()
    assert isinstance(drawer, Toolset)
    assert isinstance(Renamed("x"), Tool)
    register("tool", "test_drawer", lambda: drawer)
    box = Toolbox(tools=["test_ready", "test_drawer"])
    assert [found.name for found in box.tools] == ["twice"]
    await box.open(Context())
    await box.reset(TASK, seed=0)
    assert [found.name for found in box.tools] == ["twice", "drawer_twice"]
    (branch,) = await box.fork(1)
    await branch.open(Context())
    assert [found.name for found in branch.tools] == ["twice", "drawer_twice"]
    step = await branch.step(Action("", (ToolCall("1", "drawer_twice", {}),)))
    assert step.info.results[0].content == "drawer_twice"
    await box.close()
    await branch.close()


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        (["test_ready", "test_twice"], "two tools are named 'twice'"),
        (["pyton"], "did you mean 'python'"),
        ([Plugin.model_validate({"name": "test_ready", "n": 3})], "has no options; leave out n"),
        ([Plugin.model_validate({"name": "python", "timeout": 3})], "timeout"),
    ],
)
def test_tools_that_cannot_be_meant(tools: list[Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Toolbox(tools=tools)


async def test_a_task_needs_an_answer() -> None:
    with pytest.raises(UserError, match="has no answer"):
        await Toolbox().reset(Task("t", "?"), seed=0)
