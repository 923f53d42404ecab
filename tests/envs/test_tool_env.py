"""Dispatch of calls: order, side by side, budgets, corrections, and whose fault passes."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.context import Context
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import SandboxError, ToolError
from agentrl.tool import FunctionTool, tool
from agentrl.types import Message, Task, ToolCall
from agentrl_envs.tool_env import NO_CALLS_LEFT, ToolEnv


class Echo(ToolEnv):
    """Ends at the first turn without a call; the text is the answer."""

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def judge(self, action: Action) -> StepResult:
        reward = float(action.text == self.task.answer)
        return StepResult((), reward, True, False, StepInfo(answer=action.text))


class Meeting:
    """A tool's calls wait until `n` of them are inside at once."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.inside = 0
        self.most = 0
        self.order: list[int] = []
        self.met = asyncio.Event()

    def tool(self, *, parallel: bool) -> FunctionTool:
        @tool(parallel=parallel)
        async def meet(number: int) -> str:
            """Enter and wait for the others."""
            self.inside += 1
            self.order.append(number)
            self.most = max(self.most, self.inside)
            if self.inside >= self.n:
                self.met.set()
            if parallel:
                await self.met.wait()
            self.inside -= 1
            return f"met {number}"

        return meet


def call(i: int, name: str = "meet", **arguments: int) -> ToolCall:
    return ToolCall(f"call_0_{i}", name, arguments)


async def started(env: ToolEnv) -> ToolEnv:
    await env.open(Context())
    assert await env.reset(Task("t", "2+2?", "4"), seed=0) == (Message("user", "2+2?"),)
    return env


async def test_parallel_calls_run_side_by_side_and_answer_in_order() -> None:
    meeting = Meeting(3)
    env = await started(Echo([meeting.tool(parallel=True)], call_s=2))
    result = await env.step(Action("", tuple(call(i, number=i) for i in range(3))))
    assert meeting.most == 3
    assert [m.content for m in result.observation] == ["met 0", "met 1", "met 2"]
    assert [m.call_id for m in result.observation] == ["call_0_0", "call_0_1", "call_0_2"]
    assert {(m.role, m.name) for m in result.observation} == {("tool", "meet")}
    assert [r.content for r in result.info.results] == ["met 0", "met 1", "met 2"]
    assert result[1:4] == (0.0, False, False)


async def test_other_calls_run_one_after_another() -> None:
    meeting = Meeting(99)
    env = await started(Echo([meeting.tool(parallel=False)]))
    await env.step(Action("", tuple(call(i, number=i) for i in (2, 0, 1))))
    assert (meeting.most, meeting.order) == (1, [2, 0, 1])


async def test_calls_beyond_the_budget_are_refused_with_a_reason() -> None:
    meeting = Meeting(99)
    env = await started(Echo([meeting.tool(parallel=False)], max_calls=2))
    result = await env.step(Action("", tuple(call(i, number=i) for i in range(3))))
    assert [m.content for m in result.observation] == ["met 0", "met 1", NO_CALLS_LEFT]
    assert len(result.info.results) == 2
    again = await env.step(Action("", (call(3, number=3),)))
    assert [m.content for m in again.observation] == [NO_CALLS_LEFT]
    assert meeting.order == [0, 1]
    await env.reset(Task("u", "?", "4"), seed=0)
    fresh = await env.step(Action("", (call(4, number=4),)))
    assert fresh.observation[0].content == "met 4"


async def test_the_models_faults_teach() -> None:
    @tool
    async def refuse() -> str:
        """Always refuses."""
        raise ToolError("not today")

    env = await started(Echo([refuse]))
    calls = (call(0, "refuse"), call(1, "nobody"), call(2, "refuse", x=1))
    result = await env.step(Action("", calls))
    assert [r.error for r in result.info.results] == ["execution", "unknown_tool", "arguments"]
    assert [m.content for m in result.observation] == [
        "not today",
        "There is no tool named 'nobody'. Tools: refuse.",
        "refuse: there is no argument 'x'; it takes none.",
    ]
    unread = await env.step(Action("<code>", parse_error="There is no </code>."))
    assert unread.observation == (Message("tool", "There is no </code>."),)
    assert (unread.terminated, unread.truncated, unread.info.results) == (False, False, ())


@pytest.mark.parametrize("parallel", [True, False])
async def test_the_worlds_fault_passes_as_itself(parallel: bool) -> None:
    @tool(parallel=parallel)
    async def lose(number: int) -> str:
        """Loses its box."""
        raise SandboxError(f"box {number} is gone")

    env = await started(Echo([lose]))
    with pytest.raises(SandboxError, match="box 0 is gone"):
        await env.step(Action("", (call(0, "lose", number=0), call(1, "lose", number=1))))


async def test_a_turn_without_a_call_is_judged() -> None:
    env = await started(Echo())
    assert (await env.step(Action("4"))).reward == 1.0
    assert (await env.step(Action("5"))) == StepResult((), 0.0, True, False, StepInfo(answer="5"))


async def test_stepping_before_reset_is_our_own_fault() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        await Echo().step(Action("4"))
