"""A toy environment that a random model can play, loaded by `dice.py:Dice` as a stranger's would be.

Generations stop at the first printable character, so that even garbage has turns. The first turn is
answered with a number made of its last character; the reward is decided by the characters that two
turns ended with, so gradients are not zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from agentrl.chat.base import Inline, Messages, Presented
from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.tool import Tool, call_tool
from agentrl.transcript import Int32Array
from agentrl.types import Message, Task, ToolCall
from agentrl_tools.python import PythonTool


class Letters:
    """A protocol without calls whose turns end at any printable character."""

    name = "letters"
    stops = tuple(map(chr, range(33, 127)))

    def tool_prompt(self, tools: Sequence[Tool]) -> str:
        return ""

    def parse(self, token_ids: Int32Array, text: str, *, turn: int) -> Action:
        return Action(text)

    def call_text(self, name: str, arguments: object) -> str:
        raise ValueError("letters has no calls")

    def present(
        self, observation: Sequence[Message], *, text: str = "", ended: bool = False
    ) -> Presented:
        if ended:
            return Messages(tuple(observation))
        return Inline("<interpreter>", observation[0].content, "</interpreter>")


class Dice(Env):
    """Two turns; full score when the characters that end them are alike in parity."""

    def __init__(self, *, box: bool = False, pause_s: float = 0.0, distinct: int = 1000) -> None:
        """`box`: the first turn runs in the sandbox. `distinct`: tasks of a split."""
        self.box, self.pause_s, self.distinct = box, pause_s, distinct
        self.tools = (PythonTool(),) if box else ()
        self.ended: list[int] = []

    async def open(self, ctx: Context) -> None:
        self.ctx = ctx
        await super().open(ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        await asyncio.sleep(self.pause_s)
        self.ended.append(ord(action.text[-1:] or "\0"))
        if len(self.ended) == 1:
            return await self._answer()
        right = (self.ended[0] + self.ended[1]) % 2 == 0
        info = StepInfo(answer=action.text)
        return StepResult((), float(right), True, False, info)

    async def _answer(self) -> StepResult:
        if not self.box:
            return StepResult((Message("tool", str(self.ended[0])),), 0.0, False, False, StepInfo())
        call = ToolCall("c", "python", {"code": f"print({self.ended[0]} * 7)"})
        result = await call_tool({"python": self.tools[0]}, call, self.ctx)
        message = Message("tool", result.content, call_id="c", name="python")
        return StepResult((message,), 0.0, False, False, StepInfo(results=(result,)))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        n = 0
        while True:
            n += 1
            yield Task(f"{split}/{n % self.distinct}", f"{split[0]}{n % self.distinct}?", "even")

    def expert(self, task: Task, *, seed: int) -> Sequence[str]:
        return ("A", "C")
