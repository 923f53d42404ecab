"""OpenEnv's actions as tools, its observations as text."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase
from typing import ClassVar, cast

from agentrl.context import Context
from agentrl.errors import UserError
from agentrl.types import JsonValue, ToolResult

Fields = Mapping[str, JsonValue]
_HIDDEN = frozenset({"metadata", "done", "reward"})
_META = frozenset({"metadata", "type"})


@dataclass(frozen=True, slots=True, eq=False)
class StepTool:
    """A tool whose call is a step of the environment."""

    uses_sandbox: ClassVar[bool] = False
    name: str
    description: str
    schema: Fields
    act: Callable[[str, Fields], Awaitable[ToolResult]]
    """The environment's own step, given the tool's name and the arguments."""
    parallel: bool = False

    async def open(self, ctx: Context) -> None:
        """The environment holds the session."""

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Take the step."""
        return await self.act(self.name, arguments)

    async def close(self) -> None:
        """The environment holds the session."""


def argument_schema(action: Fields) -> Fields:
    """The action's schema without what a model does not choose."""
    properties = cast(Mapping[str, Fields], action.get("properties", {}))
    kept = {
        name: {"description": name.replace("_", " "), **node}
        for name, node in properties.items()
        if name not in _META
    }
    needed = action.get("required")
    required = [n for n in cast(Sequence[JsonValue], needed or ()) if n in kept]
    return {**action, "properties": kept, "required": required}


def calls_tools(action: Fields) -> bool:
    """Whether the environment's actions are calls of MCP tools."""
    return {"tool_name", "arguments"} <= set(cast(Fields, action.get("properties", {})))


def text_field(action: Fields, wanted: str | None) -> str:
    """The field that takes a turn's text. Raises UserError when that is not plain."""
    properties = cast(Mapping[str, Fields], argument_schema(action)["properties"])
    texts = [name for name, node in properties.items() if node.get("type") == "string"]
    if wanted is not None:
        if wanted not in properties:
            raise UserError(f"env.field: actions have no field {wanted!r}; {_known(properties)}")
        return wanted
    if len(texts) != 1:
        raise UserError(f"env.action=text needs env.field=...; {_known(properties)}")
    return texts[0]


def _known(properties: Mapping[str, object]) -> str:
    return f"the action's fields are {', '.join(properties) or 'none'}"


def as_text(observation: Fields) -> str:
    """One text field alone as it is, several fields as `name: value` lines."""
    fields = {k: v for k, v in observation.items() if k not in _HIDDEN and v not in (None, "", [])}
    if "result" in fields and "tool_name" in fields:
        return _value(_mcp_result(fields["result"]))
    if len(fields) == 1:
        return _value(next(iter(fields.values())))
    return "\n".join(f"{name}: {_value(value)}" for name, value in fields.items())


def tool_error(observation: Fields) -> str | None:
    """Why an MCP tool's call failed, if it did."""
    error = observation.get("error")
    if isinstance(error, Mapping):
        return str(error.get("message") or error)
    result = observation.get("result")
    if isinstance(result, Mapping) and result.get("is_error"):
        return _value(_mcp_result(result))
    return None


def _mcp_result(result: JsonValue) -> JsonValue:
    """What a tool returned, out of MCP's wrapping."""
    if not isinstance(result, Mapping):
        return result
    if result.get("data") is not None:
        return result["data"]
    blocks = result.get("content")
    if isinstance(blocks, list) and blocks:
        return "\n".join(_value(b.get("text")) for b in blocks if isinstance(b, Mapping))
    return result


def _value(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def random_arguments(schema: Fields, rng: Random) -> dict[str, JsonValue]:
    """Blind values that fit the schema's required fields."""
    properties = cast(Mapping[str, Fields], schema.get("properties", {}))
    required = cast(Sequence[str], schema.get("required", []))
    return {name: _random(properties[name], rng) for name in required}


def _random(node: Fields, rng: Random) -> JsonValue:
    choices = node.get("enum")
    if isinstance(choices, list) and choices:
        return rng.choice(choices)
    match node.get("type"):
        case "integer":
            low, high = node.get("minimum"), node.get("maximum")
            first = int(low) if isinstance(low, int | float) else 0
            return rng.randint(first, int(high) if isinstance(high, int | float) else first + 9)
        case "number":
            return rng.random()
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return []
        case "object":
            return {}
        case _:
            return rng.choice(ascii_lowercase)


__all__ = [
    "StepTool",
    "argument_schema",
    "as_text",
    "calls_tools",
    "random_arguments",
    "text_field",
]
