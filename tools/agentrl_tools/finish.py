"""The finishing tool: the model ends the episode by a call that carries its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError
from agentrl.types import JsonValue


@final
class FinishTool:
    """Ends the episode with the answer it is called with.

    An environment that dispatches calls reads `finishes`: a successful call of such a tool is the
    last one, and what it returns is the answer (`agentrl_envs.tool_env` does so).
    """

    name = "finish"
    parallel = False
    uses_sandbox = False
    finishes = True

    def __init__(self, *, what: str = "Your final answer, without explanation.") -> None:
        """`what` describes the argument to the model."""
        self._what = what

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return "Ends the task with your final answer. Call it once, when you are sure."

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """One argument, `answer`."""
        answer = {"type": "string", "description": self._what}
        return {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}

    async def open(self, ctx: Context) -> None:
        """Nothing to open."""

    async def __call__(self, **arguments: JsonValue) -> str:
        """The answer. Raises ToolError on an empty one, so that the model can go on."""
        answer = str(arguments["answer"]).strip()
        if not answer:
            raise ToolError("The answer is empty; nothing was ended. Give one.")
        return answer

    async def fork(self, n: int) -> list[FinishTool]:
        """Itself: there is no state to copy."""
        return [self] * n

    async def close(self) -> None:
        """Nothing to close."""
