"""A conversation with a person as an environment: the model may call tools before it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.tool import Tool, call_tool
from agentrl.toolset import Named, Toolset, connected
from agentrl.types import Message, Task, ToolResult


class Talk(Env):
    """Runs the calls of a turn; other turns are answered by what the person says to them.

    What was said is shared with whoever asks the person, so that a conversation can be played again.
    """

    def __init__(
        self, named: Sequence[Named], said: Mapping[int, str], *, system: str = "", call_s: float
    ) -> None:
        """said: number of a turn -> what the person answers it with; 0 is how it all begins."""
        self._named = tuple(named)
        self.tools = tuple(one for one in self._named if not isinstance(one, Toolset))
        self._by_name: Mapping[str, Tool] = {}
        self._said, self._system, self._call_s = said, system, call_s
        self._turn = 0
        self._ctx = Context()

    async def open(self, ctx: Context) -> None:
        """Ask toolsets for their tools, then open all."""
        self._ctx = ctx
        self.tools = await connected(self._named, ctx)
        self._by_name = {tool.name: tool for tool in self.tools}
        await super().open(ctx)

    async def close(self) -> None:
        """Close the tools, then what brought them."""
        await super().close()
        for one in self._named:
            if isinstance(one, Toolset):
                await one.close()

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The system message, if there is one, and the first thing said."""
        self._turn = 0
        first = Message("user", self._said[0])
        return (Message("system", self._system), first) if self._system else (first,)

    async def step(self, action: Action) -> StepResult:
        """The person's answer, if there is one; else the calls are run, or what is wrong is said."""
        self._turn += 1
        if self._turn in self._said:
            return _goes_on(Message("user", self._said[self._turn]))
        if action.parse_error is not None:
            return _goes_on(Message("tool", action.parse_error))
        results: list[ToolResult] = []
        shown: list[Message] = []
        for call in action.tool_calls:
            result = await call_tool(self._by_name, call, self._ctx, timeout_s=self._call_s)
            results.append(result)
            shown.append(Message("tool", result.content, call_id=call.id, name=call.name))
        return StepResult(tuple(shown), 0.0, not shown, False, StepInfo(results=tuple(results)))


def _goes_on(message: Message) -> StepResult:
    return StepResult((message,), 0.0, False, False, StepInfo())


__all__ = ["Talk"]
