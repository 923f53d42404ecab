"""Questions with any tools: those named in the config, an MCP server's among them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from random import Random
from typing import Literal, Self, TypeAlias, final

from agentrl.config import Plugin
from agentrl.context import Context
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.plugins import build_tool
from agentrl.tool import Tool
from agentrl.toolset import Toolset, connected, refuse_doubles
from agentrl.types import Message, Task
from agentrl.verify.extract import extract_answer
from agentrl.verify.text_answer import contains_match, exact_match, token_f1
from agentrl_envs.retool_math import shared_checker
from agentrl_envs.tool_env import ToolEnv

ASK = "Give the final answer as <answer>...</answer>."
Check: TypeAlias = Literal["exact", "contains", "f1", "math"]


@final
class Toolbox(ToolEnv):
    """Questions from a file, answered with tools named in the config (MCP servers included)."""

    protocol = "hermes"

    def __init__(
        self,
        *,
        tools: Sequence[Plugin | str] = (),
        check: Check = "exact",
        instructions: str = ASK,
        max_calls: int = 8,
        call_s: float = 30.0,
    ) -> None:
        """Make one episode's environment.

        Args:
            tools: names of tools, or `{name: python, timeout_s: 3}` with their options;
                `{name: mcp, command: [...]}` brings all tools of a server.
            check: what makes a final answer right: `exact` and `contains` after SQuAD's
                normalisation, `f1` of the words as reward, `math` for numbers and formulas.
            instructions: system message; empty for none.
            max_calls: tool calls per episode.
            call_s: seconds one call may take.

        Raises UserError on an unknown tool or option, and on two tools of one name.
        """
        made = [build_tool(node) for node in tools]
        self._fixed = tuple(tool for tool in made if not isinstance(tool, Toolset))
        self._sets = tuple(tool for tool in made if isinstance(tool, Toolset))
        super().__init__(self._fixed, max_calls=max_calls, call_s=call_s)
        refuse_doubles(self._fixed)
        self._check: Check = check
        self._instructions = instructions

    async def open(self, ctx: Context) -> None:
        """Ask every toolset for its tools, then open all."""
        self.tools = await connected((*self._fixed, *self._sets), ctx)
        self._by_name = {tool.name: tool for tool in self.tools}
        await super().open(ctx)

    async def close(self) -> None:
        """Close the tools, then what brought them."""
        await super().close()
        for toolset in self._sets:
            await toolset.close()

    def _with_tools(self, tools: Sequence[Tool]) -> Self:
        made = super()._with_tools(tools)
        kept = {tool.name for tool in self._fixed}
        made._fixed = tuple(tool for tool in tools if tool.name in kept)
        made._sets = tuple(copy(toolset) for toolset in self._sets)
        return made

    def first_messages(self, task: Task) -> Observation:
        """The instructions and the question. Raises UserError for a task without an answer."""
        if task.answer is None:
            raise UserError(f"task {task.id} has no answer; toolbox needs one to check against")
        question = Message("user", task.question)
        return (
            (Message("system", self._instructions), question) if self._instructions else (question,)
        )

    async def judge(self, action: Action) -> StepResult:
        """Check the last answer tag, box or, without either, the whole text; then end."""
        said = (
            action.text if action.reasoning is None else action.text.replace(action.reasoning, "")
        )
        prediction = extract_answer(said, ("answer", "boxed"))
        prediction = said.strip() if prediction is None else prediction
        score = await self._score(prediction)
        excluded = "unverified" if score is None else None
        info = StepInfo(answer=prediction, excluded=excluded)
        return StepResult((), score or 0.0, True, False, info)

    def random_turn(self, rng: Random) -> str:
        """An answer of one random digit."""
        return f"<answer>{rng.randrange(10)}</answer>"

    async def _score(self, prediction: str) -> float | None:
        gold = str(self.task.answer)
        match self._check:
            case "exact":
                return float(exact_match(prediction, gold))
            case "contains":
                return float(contains_match(prediction, gold))
            case "f1":
                return token_f1(prediction, gold)
            case "math":
                correct = (await shared_checker().check(gold, prediction)).correct
                return None if correct is None else float(correct)
