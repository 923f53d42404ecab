"""An environment under a person's eyes, who may decline a call, interrupt it, and answer a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.types import Message, Task, ToolResult

DECLINED = "The user declined this call."
INTERRUPTED = "The user interrupted this call."


@dataclass(slots=True)
class Watch:
    """What the person sees and says; shared by the environments of one conversation."""

    stepped: Callable[[Action, StepResult], None]
    """Called after each step."""
    declined: set[str] = field(default_factory=set[str])
    """Ids of calls that must not run; a turn with one of them runs none."""
    said: dict[int, str] = field(default_factory=dict[int, str])
    """Number of a turn, from 1 -> what the person answers it with, in the environment's stead."""
    running: asyncio.Timeout | None = None
    """Around the step that is being played."""

    def interrupt(self) -> None:
        """End the running step; its calls are answered with `INTERRUPTED`."""
        if self.running is not None:
            self.running.reschedule(asyncio.get_running_loop().time())


class Watched(Env):
    """Delegates to another environment. A copy is made by playing the actions again."""

    def __init__(self, inner: Env, watch: Watch) -> None:
        self._inner, self._watch = inner, watch
        self.tools, self.protocol = inner.tools, inner.protocol
        self._turn = 0

    async def open(self, ctx: Context) -> None:
        """The inner environment's."""
        await self._inner.open(ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The inner environment's; its tools may depend on the task."""
        self._turn = 0
        first = await self._inner.reset(task, seed=seed)
        self.tools = self._inner.tools
        return first

    async def step(self, action: Action) -> StepResult:
        """The inner environment's answer, unless the person answers or will not have the calls run."""
        self._turn += 1
        said = self._watch.said.get(self._turn)
        if said is not None:
            result = StepResult((Message("user", said),), 0.0, False, False, StepInfo())
        elif any(call.id in self._watch.declined for call in action.tool_calls):
            result = _refused(action, DECLINED)
        else:
            result = await self._played(action)
        self.tools = self._inner.tools
        self._watch.stepped(action, result)
        return result

    async def _played(self, action: Action) -> StepResult:
        try:
            async with asyncio.timeout(None) as self._watch.running:
                return await self._inner.step(action)
        except TimeoutError:
            if self._watch.running is None or not self._watch.running.expired():
                raise
            return _refused(action, INTERRUPTED)
        finally:
            self._watch.running = None

    async def close(self) -> None:
        """The inner environment's."""
        await self._inner.close()


def _refused(action: Action, why: str) -> StepResult:
    calls = action.tool_calls
    messages: Sequence[Message] = [
        Message("tool", why, call_id=call.id, name=call.name) for call in calls
    ]
    results = tuple(ToolResult(call.id, why, error="execution") for call in calls)
    return StepResult(
        tuple(messages) or (Message("user", why),), 0.0, False, False, StepInfo(results=results)
    )


__all__ = ["DECLINED", "INTERRUPTED", "Watch", "Watched"]
