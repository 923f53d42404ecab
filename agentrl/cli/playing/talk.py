"""A conversation with a person as an environment: the model may call tools before it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.tool import Tool, call_tool
from agentrl.toolset import Named, Toolset, connected
from agentrl.types import Message, Task, ToolResult


class Talk(Env):
    """Runs the calls of a turn; a turn without any is the end, unless the person answers it."""

    def __init__(self, named: Sequence[Named], *, system: str = "", call_s: float) -> None:
        """`system` is the system message; empty for none."""
        self._named = tuple(named)
        self.tools = tuple(one for one in self._named if not isinstance(one, Toolset))
        self._by_name: Mapping[str, Tool] = {}
        self._system, self._call_s = system, call_s
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
        first = Message("user", task.question)
        return (Message("system", self._system), first) if self._system else (first,)

    async def step(self, action: Action) -> StepResult:
        """Run the calls in order, or say what could not be read."""
        if action.parse_error is not None:
            return StepResult((Message("tool", action.parse_error),), 0.0, False, False, StepInfo())
        results: list[ToolResult] = []
        shown: list[Message] = []
        for call in action.tool_calls:
            result = await call_tool(self._by_name, call, self._ctx, timeout_s=self._call_s)
            results.append(result)
            shown.append(Message("tool", result.content, call_id=call.id, name=call.name))
        return StepResult(tuple(shown), 0.0, not shown, False, StepInfo(results=tuple(results)))


__all__ = ["Talk"]
