"""Answers of the chat-completions API: objects, chunks of a stream, errors, the list of models."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from time import time

from agentrl.chat.base import Tokenizer
from agentrl.engine.base import Generation
from agentrl.serve.gateway.turns import Finish
from agentrl.serve.gateway.wire import ApiError, call_json, message_json
from agentrl.transcript import Int32Array
from agentrl.types import JsonValue, Message

Push = Callable[[bytes], Awaitable[None]]
"""Sends one event to the client."""
DONE = b"data: [DONE]\n\n"
"""Ends a stream."""


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time()))

    def of(self, kind: str) -> dict[str, JsonValue]:
        """The fields that every object of the answer begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of an answer."""

    prompt: int
    """Read: the prompt and what tools answered."""
    completion: int
    """Sampled."""

    def to_json(self) -> dict[str, JsonValue]:
        """OpenAI's three counts."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


def summed(usages: Sequence[Usage]) -> Usage:
    """Of all choices together."""
    return Usage(sum(u.prompt for u in usages), sum(u.completion for u in usages))


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer."""

    message: Message
    finish: Finish
    extra: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Further fields of the choice: logprobs, token ids, tool activity."""


def completion(
    head: Head, choices: Sequence[Choice], usage: Usage, extra: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """The object of a request without `stream`; `extra` are further fields of its root."""
    return {
        **head.of("chat.completion"),
        "choices": [
            {
                "index": i,
                "message": {**message_json(choice.message), "refusal": None},
                "finish_reason": choice.finish,
                "logprobs": None,
                **choice.extra,
            }
            for i, choice in enumerate(choices)
        ],
        "usage": usage.to_json(),
        **extra,
    }


def chunk(
    head: Head,
    delta: Mapping[str, JsonValue],
    *,
    index: int = 0,
    finish: Finish | None = None,
    extra: Mapping[str, JsonValue] | None = None,
) -> bytes:
    """One event of a stream."""
    choice: dict[str, JsonValue] = {
        "index": index, "delta": delta, "finish_reason": finish, **(extra or {})
    }  # fmt: skip
    return event({**head.of("chat.completion.chunk"), "choices": [choice]})


def message_chunks(head: Head, choice: Choice) -> Iterator[bytes]:
    """A whole turn as a stream: who speaks, what is said and called, why it ended."""
    message = choice.message
    yield chunk(head, {"role": "assistant", "content": ""})
    if message.reasoning is not None:
        yield chunk(head, {"reasoning_content": message.reasoning})
    if message.content:
        yield chunk(head, {"content": message.content})
    for i, call in enumerate(message.tool_calls):
        yield chunk(head, {"tool_calls": [{"index": i, **call_json(call)}]})
    yield chunk(head, {}, finish=choice.finish, extra=choice.extra)


def usage_chunk(head: Head, usage: Usage) -> bytes:
    """The last event but one, when the client asked for counts."""
    body = head.of("chat.completion.chunk")
    body |= {"choices": (), "usage": usage.to_json()}
    return event(body)


def event(body: Mapping[str, JsonValue]) -> bytes:
    """One server-sent event; plain ASCII, because lone surrogates have no UTF-8."""
    return f"data: {json.dumps(body)}\n\n".encode()


def error_json(error: ApiError) -> dict[str, JsonValue]:
    """OpenAI's error object."""
    said: dict[str, JsonValue] = {
        "message": error.message, "type": error.kind, "param": error.param, "code": error.code
    }  # fmt: skip
    return {"error": said}


def models(name: str, created: int) -> dict[str, JsonValue]:
    """The answer of `GET /v1/models`."""
    one: dict[str, JsonValue] = {
        "id": name, "object": "model", "created": created, "owned_by": "agentrl"
    }  # fmt: skip
    return {"object": "list", "data": [one]}


def logprobs_json(generation: Generation, tokenizer: Tokenizer) -> dict[str, JsonValue]:
    """The sampled tokens with their logprobs; only the sampled one of each place is known."""
    content: list[JsonValue] = []
    ids = generation.token_ids.tolist()
    for token_id, logprob in zip(ids, generation.logprobs.tolist(), strict=True):
        text = tokenizer.decode([token_id])
        content.append(
            {
                "token": text,
                "logprob": logprob,
                "bytes": list(text.encode("utf-8", "replace")),
                "top_logprobs": [],
            }
        )
    return {"content": content, "refusal": None}


def ids_json(token_ids: Int32Array) -> list[JsonValue]:
    """Ids as plain numbers."""
    return [int(i) for i in token_ids]


__all__ = [
    "DONE",
    "Choice",
    "Head",
    "Push",
    "Usage",
    "chunk",
    "completion",
    "error_json",
    "event",
    "ids_json",
    "logprobs_json",
    "message_chunks",
    "models",
    "summed",
    "usage_chunk",
]
