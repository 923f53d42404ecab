"""The environment of the agent mode: somebody's conversation, and an environment's tools to work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import final

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.tool import call_tool
from agentrl.types import Message, Task, ToolCall, ToolResult

NO_CALLS_LEFT = "No calls left: answer now."


@dataclass(frozen=True, slots=True)
class Step:
    """One turn and what its calls gave back."""

    action: Action
    results: tuple[ToolResult, ...] = ()

    @property
    def final(self) -> bool:
        """It called nothing: this is the answer."""
        return not self.action.tool_calls and self.action.parse_error is None


@final
class Assistant(Env):
    """Tools for a conversation; nothing is judged."""

    def __init__(
        self,
        inner: Env,
        messages: Sequence[Message],
        told: Callable[[Step], Awaitable[None]],
        *,
        max_calls: int,
        call_s: float,
    ) -> None:
        """inner: brings the tools. told: hears of each turn as it ends, and is waited for."""
        self._inner, self._messages, self._told = inner, tuple(messages), told
        self._left, self._call_s = max_calls, call_s
        self.tools = tuple(inner.tools)
        self._by_name = {tool.name: tool for tool in self.tools}
        self._ctx = Context()

    async def open(self, ctx: Context) -> None:
        """Open the tools."""
        self._ctx = ctx
        await self._inner.open(ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The conversation so far."""
        return self._messages

    async def step(self, action: Action) -> StepResult:
        """Run the calls, correct what could not be read, or end."""
        if action.tool_calls:
            results = tuple([await self._call(call) for call in action.tool_calls])
            await self._told(Step(action, results))
            messages = tuple(
                Message("tool", result.content, call_id=call.id, name=call.name)
                for call, result in zip(action.tool_calls, results, strict=True)
            )
            return StepResult(messages, 0.0, False, False, StepInfo(results=results))
        await self._told(Step(action))
        if action.parse_error is not None:
            return StepResult((Message("tool", action.parse_error),), 0.0, False, False, StepInfo())
        return StepResult((), 0.0, True, False, StepInfo(answer=action.text))

    async def close(self) -> None:
        """Close the tools."""
        await self._inner.close()

    async def _call(self, call: ToolCall) -> ToolResult:
        if not self._left:
            return ToolResult(call.id, NO_CALLS_LEFT)
        self._left -= 1
        return await call_tool(self._by_name, call, self._ctx, timeout_s=self._call_s)


__all__ = ["Assistant", "Step"]
