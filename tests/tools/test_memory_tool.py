"""The memory tool: what each operation tells the model, and whose memories they are."""

from __future__ import annotations

import pytest

from agentrl.context import Context
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.registry import resolve
from agentrl.testing import check_tool
from agentrl.testing.result import failures
from agentrl.tool import call_tool
from agentrl.types import JsonValue, Message, Task, ToolCall, ToolResult
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.memory import MemoryTool


async def called(tool: MemoryTool, **arguments: JsonValue) -> ToolResult:
    return await call_tool({"memory": tool}, ToolCall("c", "memory", arguments), Context())


async def opened(**options: int) -> MemoryTool:
    tool = MemoryTool(**options)  # pyright: ignore[reportArgumentType]
    await tool.open(Context())
    return tool


async def test_keeps_the_contract() -> None:
    for arguments in (None, {"operation": "add", "text": "x"}, {"operation": "noop"}):
        assert failures(await check_tool(resolve("tool", "memory"), arguments=arguments)) == []


async def test_a_memory_written_changed_found_and_forgotten() -> None:
    tool = await opened()
    told = [
        await called(tool, operation="add", text="Ann has a dog, Buddy"),
        await called(tool, operation="update", id=1, text="Ann has dogs Buddy and Scout"),
        await called(tool, operation="search", text="Scout?"),
        await called(tool, operation="noop"),
        await called(tool, operation="delete", id=1),
        await called(tool, operation="search", text="Scout?"),
        await called(tool, operation="add", text="new"),
    ]
    assert [result.content for result in told] == [
        "Added memory 1.",
        "Updated memory 1.",
        "1 Ann has dogs Buddy and Scout",
        "Nothing changed.",
        "Deleted memory 1.",
        "Nothing found.",
        "Added memory 2.",
    ]
    assert {result.error for result in told} == {None}
    await tool.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"operation": "update", "id": 5, "text": "x"}, "There is no memory 5. There are: 1."),
        ({"operation": "delete"}, "DELETE needs the id of a memory."),
        ({"operation": "add"}, "There is no text to remember."),
        ({"operation": "search", "text": " "}, "search needs a text to look for."),
        (
            {"operation": "forget"},
            "There is no operation 'forget'; use add, update, delete, noop, search.",
        ),
    ],
)
async def test_errors_teach(arguments: dict[str, JsonValue], told: str) -> None:
    tool = await opened()
    await called(tool, operation="add", text="first")
    result = await called(tool, **arguments)
    assert (result.error, result.content) == ("execution", told)
    assert len(tool.bank) == 1
    await tool.close()


async def test_results_keep_to_their_budget() -> None:
    tool = await opened(max_chars=20)
    await called(tool, operation="add", text="dog " * 20)
    found = await called(tool, operation="search", text="dog")
    assert (found.content, found.truncated) == ("1 dog dog ...og dog dog", True)
    await tool.close()


async def test_each_episode_has_its_own_and_copies_share_nothing() -> None:
    one, other = await opened(), await opened()
    await called(one, operation="add", text="mine")
    assert (await called(other, operation="search", text="mine")).content == "Nothing found."
    (copy,) = await one.fork(1)
    await copy.open(Context())
    await called(copy, operation="update", id=1, text="copied")
    assert [e.text for e in one.bank.entries()] == ["mine"]
    assert [e.text for e in copy.bank.entries()] == ["copied"]
    for tool in (one, other, copy):
        await tool.close()
    await one.open(Context())
    assert len(one.bank) == 0
    await one.close()


class Notes(ToolEnv):
    """An environment whose only tool is the memory."""

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def judge(self, action: Action) -> StepResult:
        return StepResult((), 1.0, True, False, StepInfo(answer=action.text))


async def test_branches_of_an_episode_go_on_from_the_same_memories() -> None:
    def asks(**arguments: JsonValue) -> Action:
        return Action("", (ToolCall("call_0_0", "memory", arguments),))

    env = Notes([MemoryTool()])
    await env.open(Context())
    await env.reset(Task("t", "Remember!"), seed=0)
    await env.step(asks(operation="add", text="Ann has a dog"))
    branches = await env.fork(2)
    told: list[str] = []
    for i, branch in enumerate(branches):
        await branch.open(Context())
        await branch.step(asks(operation="update", id=1, text=f"Ann has {i} dogs"))
        found = await branch.step(asks(operation="search", text="dogs"))
        told.append(found.observation[0].content)
        await branch.close()
    assert told == ["1 Ann has 0 dogs", "1 Ann has 1 dogs"]
    kept = await env.step(asks(operation="search", text="dog"))
    assert kept.observation[0].content == "1 Ann has a dog"
    await env.close()


def test_sizes_are_checked() -> None:
    with pytest.raises(UserError, match="k, max_entries"):
        MemoryTool(k=0)
