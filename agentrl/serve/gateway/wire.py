"""Requests of the chat-completions API, read and checked: what cannot be honoured is refused.

Every refusal is an `ApiError`, which becomes an answer in OpenAI's schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from agentrl.errors import AgentRLError
from agentrl.tool import Tool
from agentrl.types import JsonValue, Message, Role, ToolCall, ToolResult

MAX_N = 64
"""Choices of one request."""
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
NEUTRAL: Mapping[str, tuple[JsonValue, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "auto", "required"),
    "parallel_tool_calls": (None, True),
    "top_logprobs": (None, 0),
    "modalities": (None, ["text"]),
    "functions": (None, []),
    "function_call": (None,),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
"""Settings that are accepted only where they change nothing; `required` is left to the policy, which
writes what it was trained to write."""
NO_ARGUMENTS: Mapping[str, JsonValue] = {"type": "object", "properties": {}}
"""The schema of a tool that names none."""


class ApiError(AgentRLError):
    """A request that is refused, as OpenAI says it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param

    @property
    def kind(self) -> str:
        """OpenAI's `type` of the error."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that the client runs itself; here it is only described."""

    name: str
    description: str
    schema: Mapping[str, JsonValue]
    parallel: bool = False

    async def open(self, ctx: object) -> None:
        """Nothing to open."""

    async def __call__(self, **arguments: JsonValue) -> str | ToolResult:
        """Raises RuntimeError: the client runs its tools."""
        raise RuntimeError(f"the client runs {self.name} itself")

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One `POST /v1/chat/completions`."""

    messages: tuple[Message, ...]
    model: str = ""
    tools: tuple[OfferedTool, ...] = ()
    n: int = 1
    max_tokens: int | None = None
    """Sampled tokens at most; None leaves it to the server."""
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    """A last chunk with the counts, in a stream."""
    logprobs: bool = False
    return_token_ids: bool = False
    """vLLM's extension: ids of prompt and answer beside the text."""


def read_request(body: Mapping[str, JsonValue]) -> ChatRequest:
    """The request in a JSON body. Raises ApiError that names the parameter."""
    for name, allowed in NEUTRAL.items():
        if body.get(name) not in allowed:
            raise _refused(name, f"{name}={json.dumps(body[name])} is not supported here")
    messages = tuple(_message(m, i) for i, m in enumerate(_list(body, "messages")))
    if not messages:
        raise _refused("messages", "messages must hold at least one message")
    limits = [_whole(body, "max_completion_tokens", 1), _whole(body, "max_tokens", 1)]
    n = _whole(body, "n", 1)
    if n is not None and n > MAX_N:
        raise _refused("n", f"n is at most {MAX_N}")
    options = body.get("stream_options")
    usage = isinstance(options, Mapping) and options.get("include_usage") is True
    return ChatRequest(
        messages,
        model=str(body.get("model") or ""),
        tools=tuple(_tool(t, i) for i, t in enumerate(_list(body, "tools"))),
        n=n or 1,
        max_tokens=next((limit for limit in limits if limit is not None), None),
        temperature=_number(body, "temperature", 0.0, 2.0),
        top_p=_number(body, "top_p", 0.0, 1.0),
        stop=_stops(body.get("stop")),
        seed=_whole(body, "seed", -(1 << 63)),
        stream=_flag(body, "stream"),
        include_usage=usage,
        logprobs=_flag(body, "logprobs"),
        return_token_ids=_flag(body, "return_token_ids"),
    )


def tool_specs(tools: Sequence[Tool]) -> list[JsonValue]:
    """Tools as a request's `tools`; reading them back gives equal descriptions."""
    return [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": t.schema},
        }
        for t in tools
    ]


def message_json(message: Message) -> dict[str, JsonValue]:
    """A message as the API writes it; reading it back gives an equal one."""
    plain: dict[str, JsonValue] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [call_json(call) for call in message.tool_calls]
        plain["content"] = message.content or None
    if message.reasoning is not None:
        plain["reasoning_content"] = message.reasoning
    if message.role == "tool":
        plain["tool_call_id"] = message.call_id or ""
    return plain


def call_json(call: ToolCall) -> dict[str, JsonValue]:
    """A call as the API writes it."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function: dict[str, JsonValue] = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _message(value: JsonValue, index: int) -> Message:
    where = f"messages[{index}]"
    if not isinstance(value, Mapping):
        raise _refused(where, f"{where} must be an object")
    role = ROLES.get(str(value.get("role")))
    if role is None:
        raise _refused(f"{where}.role", f"{where}.role must be one of {', '.join(ROLES)}")
    reasoning = value.get("reasoning_content", value.get("reasoning"))
    return Message(
        role,
        _content(value.get("content"), where),
        tool_calls=_calls(value.get("tool_calls"), where) if role == "assistant" else (),
        call_id=str(value.get("tool_call_id") or "") or None if role == "tool" else None,
        reasoning=reasoning if isinstance(reasoning, str) and role == "assistant" else None,
    )


def _content(value: JsonValue, where: str) -> str:
    """Text, or text parts joined."""
    if value is None or isinstance(value, str):
        return value or ""
    parts = value if isinstance(value, list) else [value]
    texts: list[str] = []
    for part in cast(list[JsonValue], parts):
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise _refused(f"{where}.content", f"{where}.content may hold text only")
        texts.append(text)
    return "".join(texts)


def _calls(value: JsonValue, where: str) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    for item in value if isinstance(value, list) else ():
        function = item.get("function") if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(function, Mapping):
            raise _refused(f"{where}.tool_calls", f"{where}.tool_calls must hold function calls")
        raw = function.get("arguments")
        arguments = _arguments(raw if isinstance(raw, str) else json.dumps(raw or {}))
        name, call_id = str(function.get("name") or ""), str(item.get("id") or "")
        calls.append(ToolCall(call_id, name, arguments))
    return tuple(calls)


def _arguments(text: str) -> Mapping[str, JsonValue]:
    try:
        found: object = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return cast(Mapping[str, JsonValue], found)
    raise _refused("messages", "the arguments of a tool call must be a JSON object")


def _tool(value: JsonValue, index: int) -> OfferedTool:
    where = f"tools[{index}]"
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise _refused(where, f"{where} must be a function with a name")
    schema = function.get("parameters")
    if schema is None:
        schema = NO_ARGUMENTS
    if not isinstance(schema, Mapping):
        raise _refused(where, f"{where}.function.parameters must be a JSON schema")
    return OfferedTool(name, str(function.get("description") or ""), schema)


def _list(body: Mapping[str, JsonValue], name: str) -> list[JsonValue]:
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _refused(name, f"{name} must be a list")
    return list(value)


def _stops(value: JsonValue) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(s, str) and s for s in found):
        raise _refused("stop", "stop must be a string or a list of strings that are not empty")
    return tuple(cast(list[str], found))


def _whole(body: Mapping[str, JsonValue], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        raise _refused(name, f"{name} must be a whole number of at least {least}")
    return value


def _number(body: Mapping[str, JsonValue], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(name, f"{name} must be a number")
    if not least <= value <= most or (name == "top_p" and not value):
        raise _refused(name, f"{name} must lie between {least:g} and {most:g}")
    return float(value)


def _flag(body: Mapping[str, JsonValue], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _refused(name, f"{name} must be true or false")
    return bool(value)


def _refused(param: str, message: str) -> ApiError:
    return ApiError(message, code="invalid_value", param=param)


__all__ = [
    "ApiError",
    "ChatRequest",
    "OfferedTool",
    "call_json",
    "message_json",
    "read_request",
    "tool_specs",
]
