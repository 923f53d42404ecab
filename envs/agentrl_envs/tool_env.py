"""The environment in which a model calls tools until it gives an answer."""

from __future__ import annotations

from abc import abstractmethod
from asyncio import Task as AsyncTask
from asyncio import TaskGroup
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Protocol, Self, runtime_checkable

from agentrl.context import Context
from agentrl.env import Action, Env, Forkable, Observation, StepInfo, StepResult
from agentrl.errors import CannotFork
from agentrl.tool import Tool, call_tool
from agentrl.types import Message, Task, ToolCall, ToolResult

NO_CALLS_LEFT = "No calls left: answer now."


@runtime_checkable
class Finishing(Protocol):
    """A tool whose successful call ends the episode: what it returns is the answer."""

    @property
    def finishes(self) -> bool:
        """True for such a tool."""
        ...


class ToolEnv(Env):
    """Dispatches an action's tool calls; a turn without a call is judged.

    A subclass says how a task begins and what a final turn is worth. With a `Finishing` tool among
    `tools` the model may also end the episode by a call: `answered` judges that.
    """

    def __init__(
        self, tools: Sequence[Tool] = (), *, max_calls: int = 8, call_s: float = 30.0
    ) -> None:
        """`max_calls` bounds the calls of an episode, `call_s` the seconds of each."""
        self.tools = tuple(tools)
        self.max_calls = max_calls
        self.call_s = call_s
        self._by_name = {tool.name: tool for tool in self.tools}
        self._ctx = Context()
        self._task: Task | None = None
        self._calls = 0

    @property
    def task(self) -> Task:
        """The task being solved. Raises RuntimeError before `reset`."""
        if self._task is None:
            raise RuntimeError("reset() the environment before stepping it")
        return self._task

    @abstractmethod
    def first_messages(self, task: Task) -> Observation:
        """The conversation's first messages."""

    @abstractmethod
    async def judge(self, action: Action) -> StepResult:
        """Answer a turn that calls no tool."""

    async def answered(self, answer: str) -> StepResult:
        """Answer a call of a `Finishing` tool; by default as if the answer were the turn's text."""
        return await self.judge(Action(answer))

    async def open(self, ctx: Context) -> None:
        """Hand the context to every tool."""
        self._ctx = ctx
        await super().open(ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Start the task with all calls left; `seed` changes nothing in a world without chance."""
        self._task = task
        self._calls = 0
        return self.first_messages(task)

    async def fork(self, n: int) -> list[Self]:
        """Copies with copied tools. A subclass with mutable state of its own copies that as well.

        Raises CannotFork for a tool that cannot be copied.
        """
        tools: list[Sequence[Tool]] = []
        for tool in self.tools:
            if not isinstance(tool, Forkable):
                raise CannotFork(f"the tool {tool.name!r} has no `fork`")
            tools.append(await tool.fork(n))
        return [self._with_tools([copies[i] for copies in tools]) for i in range(n)]

    def _with_tools(self, tools: Sequence[Tool]) -> Self:
        made = copy(self)
        made.tools = tuple(tools)
        made._by_name = {tool.name: tool for tool in tools}
        return made

    async def step(self, action: Action) -> StepResult:
        """Run the action's calls, correct what could not be read, or judge."""
        calls = action.tool_calls
        last = next((i for i, call in enumerate(calls) if self._finishes(call)), None)
        if last is not None:
            return await self._finish(calls[:last], calls[last])
        if calls:
            return await self._dispatch(calls)
        if action.parse_error is not None:
            correction = Message("tool", action.parse_error)
            return StepResult((correction,), 0.0, False, False, StepInfo())
        return await self.judge(action)

    def _finishes(self, call: ToolCall) -> bool:
        tool = self._by_name.get(call.name)
        return isinstance(tool, Finishing) and tool.finishes

    async def _finish(self, before: Sequence[ToolCall], call: ToolCall) -> StepResult:
        """Run the calls before the finishing one, then that; calls after it are not run.

        Finishing costs none of `max_calls`: it must stay possible when they are used up.
        """
        earlier = await self._dispatch(before)
        result = await self._call(call)
        results = (*earlier.info.results, result)
        if result.error is None:
            ended = await self.answered(result.content)
            info = replace(ended.info, results=(*results, *ended.info.results))
            if ended.terminated or ended.truncated:
                return ended._replace(info=info)
            said = "\n".join(message.content for message in ended.observation)
        else:
            ended, said, info = earlier, result.content, StepInfo(results=results)
        told = Message("tool", said, call_id=call.id, name=call.name)
        return ended._replace(observation=(*earlier.observation, told), info=info)

    async def _dispatch(self, calls: Sequence[ToolCall]) -> StepResult:
        allowed = calls[: max(0, self.max_calls - self._calls)]
        self._calls += len(allowed)
        results: list[ToolResult] = []
        for batch in self._batches(allowed):
            results += await self._together(batch) if len(batch) > 1 else [await self._call(*batch)]
        contents = [result.content for result in results]
        contents += [NO_CALLS_LEFT] * (len(calls) - len(allowed))
        messages = tuple(
            Message("tool", content, call_id=call.id, name=call.name)
            for call, content in zip(calls, contents, strict=True)
        )
        return StepResult(messages, 0.0, False, False, StepInfo(results=tuple(results)))

    def _batches(self, calls: Sequence[ToolCall]) -> list[list[ToolCall]]:
        """Calls in order; neighbours share a batch when every tool in it is parallel."""
        batches: list[list[ToolCall]] = []
        parallel = False
        for call in calls:
            tool = self._by_name.get(call.name)
            joins = tool is not None and tool.parallel
            if joins and parallel:
                batches[-1].append(call)
            else:
                batches.append([call])
            parallel = joins
        return batches

    async def _call(self, call: ToolCall) -> ToolResult:
        return await call_tool(self._by_name, call, self._ctx, timeout_s=self.call_s)

    async def _together(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        tasks: list[AsyncTask[ToolResult]] = []
        try:
            async with TaskGroup() as group:
                tasks += [group.create_task(self._call(call)) for call in calls]
        except BaseExceptionGroup as failed:
            # The episode border sorts failures by type, so the first leaves without its group.
            raise failed.exceptions[0] from failed
        return [task.result() for task in tasks]
