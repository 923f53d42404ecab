"""What answers behind the routes: an agent of ours, or a recorded session of somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agentrl.chat.base import Tokenizer
from agentrl.serve.gateway.answers import (
    DONE,
    Choice,
    Head,
    Push,
    Usage,
    completion,
    ids_json,
    logprobs_json,
    message_chunks,
    usage_chunk,
)
from agentrl.serve.gateway.session import Session
from agentrl.serve.gateway.turns import Turn
from agentrl.serve.gateway.wire import ChatRequest
from agentrl.types import JsonValue


class Backend(Protocol):
    """Answers chat requests."""

    async def complete(self, request: ChatRequest, who: str) -> Mapping[str, JsonValue]:
        """The whole answer; `who` names the session. Raises ApiError."""
        ...

    async def stream(self, request: ChatRequest, who: str, push: Push) -> None:
        """The answer as server-sent events. Raises ApiError, at best before the first."""
        ...


class Sessions(Protocol):
    """Recorded sessions by name."""

    def find(self, who: str) -> Session:
        """An open session. Raises ApiError when there is none."""
        ...

    def create(self, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Begin one, perhaps at a task; tells its name. Raises ApiError."""
        ...

    async def settle(self, who: str, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Reward it, and close it. Raises ApiError."""
        ...


class Recording:
    """Implements `Backend` over sessions: each request is a turn of one."""

    def __init__(self, name: str, sessions: Sessions, tokenizer: Tokenizer) -> None:
        """name: of the model, as answers tell it."""
        self._name, self._sessions, self._tokenizer = name, sessions, tokenizer

    async def complete(self, request: ChatRequest, who: str) -> Mapping[str, JsonValue]:
        """See `Backend.complete`."""
        turn = await self._sessions.find(who).complete(request)
        extra: dict[str, JsonValue] = {"agentrl": {"session": who, "row": turn.row}}
        if request.return_token_ids:
            extra["prompt_token_ids"] = ids_json(turn.prompt_ids)
        return completion(Head(self._name), [self._choice(request, turn)], _usage(turn), extra)

    async def stream(self, request: ChatRequest, who: str, push: Push) -> None:
        """See `Backend.stream`; a turn is sent when it has been written."""
        turn, head = await self._sessions.find(who).complete(request), Head(self._name)
        for piece in message_chunks(head, self._choice(request, turn)):
            await push(piece)
        if request.include_usage:
            await push(usage_chunk(head, _usage(turn)))
        await push(DONE)

    def _choice(self, request: ChatRequest, turn: Turn) -> Choice:
        extra: dict[str, JsonValue] = {}
        if request.logprobs:
            extra["logprobs"] = logprobs_json(turn.generation, self._tokenizer)
        if request.return_token_ids:
            extra["token_ids"] = ids_json(turn.generation.token_ids)
        return Choice(turn.message, turn.finish, extra)


def _usage(turn: Turn) -> Usage:
    return Usage(len(turn.prompt_ids), len(turn.generation.token_ids))


__all__ = ["Backend", "Recording", "Sessions"]
