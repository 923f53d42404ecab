"""verl-tool's tool server (VerlTool, 2509.01055): text actions in, observations out.

    POST /get_observation  {"trajectory_ids": [...], "actions": [...], "finish": [...],
                            "is_last_step": [...], "extra_fields": [{...}, ...]}
                        -> {"observations": [...], "dones": [...], "valids": [...],
                            "processing_time_ms": t}
    GET  /health

An action is a model's turn; a protocol finds the calls in it, and the observation is what that
protocol puts behind the turn. Every trajectory has tools and a sandbox of its own until `finish`
(or until nobody used them for a while). An observation is a text, or `{"obs": text, ...}` with the
reason why nothing was run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias, cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentrl.chat.base import Inline, ToolProtocol
from agentrl.env import Action
from agentrl.errors import AgentRLError
from agentrl.sandbox import SandboxPool
from agentrl.serve.body import BadRequest, read_json
from agentrl.serve.door import Bearer, Door, reply
from agentrl.serve.tool_sessions import ToolSessions
from agentrl.transcript import ids_array
from agentrl.types import JsonValue, Message, ToolCall
from agentrl.verify.extract import last_boxed

NO_ACTION = "no valid tool found for action"
MAX_BODY_BYTES = 64 << 20
_PER_ITEM = ("actions", "finish", "is_last_step", "extra_fields")

Observed: TypeAlias = "str | Mapping[str, JsonValue]"


@dataclass(frozen=True, slots=True)
class Item:
    """One trajectory's turn."""

    trajectory: str
    action: str
    finish: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is answered to it."""

    observation: Observed
    done: bool
    valid: bool


def read_items(body: Mapping[str, JsonValue]) -> list[Item]:
    """The request's turns. Raises BadRequest (400) on lists that are missing or do not match."""
    ids = body.get("trajectory_ids")
    # verl-tool's own closing request holds a lone id where a list belongs.
    ids = [ids] if isinstance(ids, str) else ids
    actions = body.get("actions")
    if not isinstance(ids, list) or not ids or not isinstance(actions, list):
        raise BadRequest("`trajectory_ids` and `actions` must be lists, and not empty", 400)
    for name in _PER_ITEM:
        column = body.get(name)
        if column is not None and (not isinstance(column, list) or len(column) != len(ids)):
            raise BadRequest(f"`{name}` must be a list as long as `trajectory_ids`", 400)
    if not all(isinstance(action, str) for action in actions):
        raise BadRequest("every action must be a string", 400)
    finish = cast(Sequence[JsonValue], body.get("finish") or [False] * len(ids))
    extra = cast(Sequence[JsonValue], body.get("extra_fields") or [None] * len(ids))
    return [
        Item(str(name), str(action), bool(over) or _asks_to_finish(more))
        for name, action, over, more in zip(ids, actions, finish, extra, strict=True)
    ]


def _asks_to_finish(extra: JsonValue) -> bool:
    return isinstance(extra, Mapping) and bool(extra.get("finish"))


class Observer:
    """Answers turns over tool sessions."""

    def __init__(self, sessions: ToolSessions, protocol: ToolProtocol, call_s: float) -> None:
        self._sessions, self._protocol, self._call_s = sessions, protocol, call_s

    async def observe(self, items: Sequence[Item]) -> list[Outcome]:
        """All turns, side by side; those of one trajectory in order."""
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(self._one(item)) for item in items]
        return [task.result() for task in running]

    async def _one(self, item: Item) -> Outcome:
        if item.finish:
            await self._sessions.close(item.trajectory)
            boxed = last_boxed(item.action)
            said = item.action.strip() if boxed is None else boxed
            return Outcome(said, True, boxed is not None or not said)
        turn = self._sessions.calls(item.trajectory)
        action = self._protocol.parse(ids_array(()), item.action, turn=turn)
        if not action.tool_calls:
            told = action.parse_error or ""
            return Outcome({"obs": told, "invalid_reason": told or NO_ACTION}, False, False)
        try:
            return await self._run(item.trajectory, action)
        except AgentRLError as error:  # the format's only word for the world's faults
            return Outcome({"obs": "", "error": str(error)}, True, False)

    async def _run(self, trajectory: str, action: Action) -> Outcome:
        messages: list[Message] = []
        valid = True
        for call in action.tool_calls:
            result = await self._sessions.call(trajectory, call, self._call_s)
            messages.append(_answer(call, result.content))
            valid = valid and result.error not in ("unknown_tool", "arguments", "parse")
        presented = self._protocol.present(messages, text=action.text, ended=False)
        if isinstance(presented, Inline):
            return Outcome(presented.text, False, valid)
        text = "\n".join(message.content for message in presented.messages)
        return Outcome(text, False, valid)


def _answer(call: ToolCall, content: str) -> Message:
    return Message("tool", content, call_id=call.id, name=call.name)


def tool_app(
    sessions: ToolSessions, observer: Observer, door: Door, pool: SandboxPool | None
) -> Starlette:
    """The application; its shutdown closes every session, then the pool."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as group:
            reaper = group.create_task(sessions.reap())
            try:
                yield
            finally:
                reaper.cancel()
        await sessions.close_all()
        if pool is not None:
            await pool.close()

    async def get_observation(request: Request) -> Response:
        began = time.monotonic()
        try:
            items = read_items(await read_json(request, MAX_BODY_BYTES))
        except BadRequest as error:
            return reply({"detail": error.message}, error.status)
        found = await observer.observe(items)
        return reply(
            {
                "observations": [outcome.observation for outcome in found],
                "dones": [outcome.done for outcome in found],
                "valids": [outcome.valid for outcome in found],
                "processing_time_ms": 1000 * (time.monotonic() - began),
            }
        )

    async def health(request: Request) -> Response:
        return reply({"status": "healthy", "trajectories": len(sessions)})

    hosts = [host.strip("[]") for host in door.hosts]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]
    if door.token is not None:
        middleware.append(Middleware(Bearer, token=door.token))
    routes = [
        Route("/get_observation", get_observation, methods=["POST"]),
        Route("/health", health),
    ]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


__all__ = ["Item", "Observer", "Outcome", "read_items", "tool_app"]
