"""Any OpenEnv server as an environment: its steps are tool calls, or whole turns of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Literal, cast, final

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import ToolError, UserError
from agentrl.seeds import derive
from agentrl.tool import Tool, call_tool
from agentrl.types import Message, Task, ToolResult
from agentrl_envs.openenv.render import (
    Fields,
    StepTool,
    argument_schema,
    as_text,
    calls_tools,
    random_arguments,
    text_field,
    tool_error,
)
from agentrl_envs.openenv.session import Served, Session, action_schema, connect, room

RESET = "reset"
"""Metadata of a task that is handed to the server's `reset`."""
OVER = "The episode is over."
_SEEDS = 2**31


@final
class OpenEnv(Env):
    """An environment served by OpenEnv, at a URL."""

    protocol = "hermes"

    def __init__(
        self,
        *,
        url: str,
        action: Literal["tool", "text"] = "tool",
        field: str | None = None,
        tool: str = "act",
        instructions: str = "",
        reset: Mapping[str, Any] | None = None,
        sessions: int | None = None,
        wait_s: float = 60.0,
        connect_s: float = 10.0,
        message_s: float = 60.0,
    ) -> None:
        """Make one episode's environment; nothing is contacted before `open`.

        Args:
            url: the server's root, such as http://localhost:8000.
            action: `tool`: a step is a call of the tool `act` with the action's fields, or of one of
                the environment's own MCP tools; a turn without a call ends the episode. `text`:
                every turn is a step, its text one field of the action.
            field: that field, when the action has several texts.
            tool: name of the tool `act`.
            instructions: system message; empty for none.
            reset: handed to the server's reset, beside the seed.
            sessions: how many episodes this process plays at once; set it to what the server can
                serve (1 for most), null if that is enough for all.
            wait_s: how long a full server is asked again.
            connect_s: deadline of the connection.
            message_s: deadline of each answer.

        Raises UserError on options that cannot be meant.
        """
        if not url.startswith(("http://", "https://")):
            raise UserError(f"env.url: {url!r} must begin with http:// or https://")
        if wait_s < 0 or min(connect_s, message_s) <= 0 or (sessions is not None and sessions < 1):
            raise UserError("env: wait_s is at least 0, other times above 0, sessions at least 1")
        self._url = url.rstrip("/")
        self._action: Literal["tool", "text"] = action
        self._field, self._tool_name = field, tool
        self._instructions, self._reset_fields = instructions, dict(reset or {})
        self._sessions, self._wait_s = sessions, wait_s
        self._connect_s, self._message_s = connect_s, message_s
        self._ctx = Context()
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self._last: Served | None = None

    async def open(self, ctx: Context) -> None:
        """Take a session of the server and learn its actions. Raises OpenEnvLost, UserError."""
        self._ctx = ctx
        await self._stack.enter_async_context(room(self._url, self._sessions))
        schema = await action_schema(self._url, self._connect_s)
        self._session = await connect(
            self._url,
            connect_s=self._connect_s,
            message_s=self._message_s,
            wait_s=ctx.remaining_s(self._wait_s),
        )
        if self._action == "text":
            self._field = text_field(schema, self._field)
        elif calls_tools(schema):
            self.tools = await self._mcp_tools()
        else:
            told = str(schema.get("description") or "Takes one step in the environment.")
            self.tools = (
                StepTool(self._tool_name, _sentence(told), argument_schema(schema), self._act),
            )

    async def close(self) -> None:
        """Leave the session and its place. Idempotent."""
        session, self._session = self._session, None
        try:
            if session is not None:
                await session.close()
        finally:
            await self._stack.aclose()

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Reset the server with the seed, the options and the task's own fields."""
        own = task.metadata.get(RESET)
        fields = {**self._reset_fields, **(cast(Fields, own) if isinstance(own, Mapping) else {})}
        self._last = await self._live().reset({"seed": seed % _SEEDS, **fields})
        text = as_text(self._last.observation) or task.question
        first = Message("user", text)
        return (Message("system", self._instructions), first) if self._instructions else (first,)

    async def step(self, action: Action) -> StepResult:
        """Take the turn's steps, in order, until the server says it is over."""
        if self._action == "text":
            return await self._said(action.text)
        if action.tool_calls:
            return await self._called(action)
        if action.parse_error is not None:
            told = Message("tool", action.parse_error)
            return StepResult((told,), 0.0, False, False, StepInfo())
        return StepResult((), 0.0, True, False, StepInfo(answer=action.text))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream of episodes that differ in the server's seed.

        Train has the even seeds, test the odd ones. Raises UserError on another split.
        """
        if split not in ("train", "test"):
            raise UserError(f"openenv has the splits train and test, not {split!r}")
        return self._stream(Random(derive("openenv", seed, split)), int(split == "test"))

    def random_turn(self, rng: Random) -> str:
        """A call with blind arguments; a letter where turns are text."""
        if not self.tools:
            return rng.choice("abcdefghijklmnopqrstuvwxyz")
        tool = rng.choice(self.tools)
        call = {"name": tool.name, "arguments": random_arguments(tool.schema, rng)}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"

    def _stream(self, rng: Random, odd: int) -> Iterator[Task]:
        seen: set[int] = set()
        while True:
            number = 2 * rng.randrange(_SEEDS // 2) + odd
            if number not in seen:
                seen.add(number)
                yield Task(f"openenv/{number}", f"Episode {number}.", seed=number)

    def _live(self) -> Session:
        if self._session is None:
            raise RuntimeError("open() the environment before playing it")
        return self._session

    async def _said(self, text: str) -> StepResult:
        try:
            served = await self._live().step({str(self._field): text})
        except ToolError as error:
            return StepResult((Message("user", str(error)),), 0.0, False, False, StepInfo())
        told = () if served.done else (Message("user", as_text(served.observation) or "..."),)
        return StepResult(told, served.reward, served.done, False, StepInfo())

    async def _called(self, action: Action) -> StepResult:
        by_name: dict[str, Tool] = {tool.name: tool for tool in self.tools}
        results: list[ToolResult] = []
        messages: list[Message] = []
        reward, done = 0.0, False
        for call in action.tool_calls:
            if done:
                messages.append(Message("tool", OVER, call_id=call.id, name=call.name))
                continue
            self._last = None
            result = await call_tool(by_name, call, self._ctx, timeout_s=self._message_s + 5)
            results.append(result)
            messages.append(Message("tool", result.content, call_id=call.id, name=call.name))
            if self._last is not None:
                reward, done = reward + self._last.reward, self._last.done
        info = StepInfo(results=tuple(results))
        return StepResult(tuple(messages), reward, done, False, info)

    async def _act(self, name: str, arguments: Fields) -> ToolResult:
        self._last = await self._live().step(arguments)
        return ToolResult("", as_text(self._last.observation) or "(nothing)")

    async def _call_mcp(self, name: str, arguments: Fields) -> ToolResult:
        self._last = await self._live().step(
            {"type": "call_tool", "tool_name": name, "arguments": arguments}
        )
        failed = tool_error(self._last.observation)
        if failed is not None:
            return ToolResult("", failed, error="execution")
        return ToolResult("", as_text(self._last.observation) or "(nothing)")

    async def _mcp_tools(self) -> tuple[Tool, ...]:
        served = await self._live().step({"type": "list_tools"})
        listed = served.observation.get("tools")
        return tuple(
            StepTool(
                str(told.get("name")),
                str(told.get("description") or f"The tool {told.get('name')}."),
                cast(Fields, told.get("input_schema") or {"type": "object", "properties": {}}),
                self._call_mcp,
            )
            for told in (listed if isinstance(listed, list) else [])
            if isinstance(told, Mapping)
        )


def _sentence(text: str) -> str:
    """The first paragraph: what follows is for programmers."""
    return " ".join(text.partition("\n\n")[0].split())


__all__ = ["OpenEnv"]
