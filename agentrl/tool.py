"""The tool contract, the `@tool` decorator, and the tool border.

A tool is an annotated async function. Host settings sit in an outer factory, what the model may set
in the inner function; name, description and JSON schema are derived. `call_tool` is the one place
where a failure inside a tool is sorted into its fate.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, ClassVar, Protocol, cast, overload, runtime_checkable

from agentrl.context import Context
from agentrl.errors import AgentRLError, DeadlineExceeded, ToolError
from agentrl.types import JsonValue, ToolCall, ToolFault, ToolResult


@runtime_checkable
class Tool(Protocol):
    """Something the model may call."""

    @property
    def name(self) -> str:
        """How the model calls it; unique among an episode's tools."""
        ...

    @property
    def description(self) -> str:
        """Addressed to the model."""
        ...

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """JSON Schema of the arguments object."""
        ...

    @property
    def parallel(self) -> bool:
        """True when calls of one turn may run side by side."""
        ...

    async def open(self, ctx: Context) -> None:
        """Called once per episode, before the first call."""
        ...

    async def __call__(self, **arguments: JsonValue) -> str | ToolResult:
        """Run one call. Raises ToolError for the model's fault, WorldFault for the world's."""
        ...

    async def close(self) -> None:
        """Release what `open` took. Idempotent."""
        ...


ToolFunction = Callable[..., Awaitable[str | ToolResult]]


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A stateless tool made from an annotated async function; it never leases a sandbox."""

    uses_sandbox: ClassVar[bool] = False
    function: ToolFunction
    name: str
    description: str
    schema: Mapping[str, JsonValue]
    parallel: bool = False

    async def open(self, ctx: Context) -> None:
        """Nothing to open."""

    async def __call__(self, **arguments: JsonValue) -> str | ToolResult:
        """Await the function with validated arguments."""
        return await self.function(**arguments)

    async def close(self) -> None:
        """Nothing to close."""

    async def fork(self, n: int) -> list[FunctionTool]:
        """Itself: there is no state to copy."""
        return [self] * n


@overload
def tool(function: ToolFunction, /) -> FunctionTool: ...


@overload
def tool(*, parallel: bool = False) -> Callable[[ToolFunction], FunctionTool]: ...


def tool(
    function: ToolFunction | None = None, /, *, parallel: bool = False
) -> FunctionTool | Callable[[ToolFunction], FunctionTool]:
    """Make a Tool of an annotated async function with a docstring.

    The description is the docstring's text before `Args:`; each argument's line under `Args:`
    becomes its schema description. Raises TypeError when an annotation or the docstring is missing.
    """

    def make(fn: ToolFunction) -> FunctionTool:
        """Wrap one function, its description and schema read from it."""
        description, arguments = _read_docstring(fn)
        return FunctionTool(fn, fn.__name__, description, _schema(fn, arguments), parallel)

    return make if function is None else make(function)


def _read_docstring(fn: ToolFunction) -> tuple[str, dict[str, str]]:
    text = inspect.getdoc(fn)
    if not text:
        raise TypeError(f"tool {fn.__name__} needs a docstring: the model reads it")
    before, _, after = text.partition("Args:")
    arguments: dict[str, str] = {}
    for line in after.splitlines():
        name, colon, what = line.strip().partition(":")
        if colon and name.isidentifier():
            arguments[name] = what.strip()
    return " ".join(before.split()), arguments


def _schema(fn: ToolFunction, described: Mapping[str, str]) -> Mapping[str, JsonValue]:
    from pydantic import BaseModel, ConfigDict, Field, create_model

    hints = inspect.get_annotations(fn, eval_str=True)
    fields: dict[str, tuple[object, object]] = {}
    for name, parameter in inspect.signature(fn).parameters.items():
        if name not in hints:
            raise TypeError(f"tool {fn.__name__}: argument {name!r} needs a type annotation")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints[name], Field(default, description=described.get(name)))
    config = ConfigDict(extra="forbid")
    model: type[BaseModel] = create_model(fn.__name__, __config__=config, **cast(Any, fields))
    schema: dict[str, JsonValue] = model.model_json_schema()
    schema.pop("title", None)
    for value in cast(dict[str, dict[str, JsonValue]], schema.get("properties", {})).values():
        value.pop("title", None)
    return schema


async def call_tool(
    tools: Mapping[str, Tool], call: ToolCall, ctx: Context, *, timeout_s: float = 30.0
) -> ToolResult:
    """Run one call at the tool border.

    The model's faults come back as a corrective ToolResult; a WorldFault passes through.
    """
    chosen = tools.get(call.name)
    if chosen is None:
        known = ", ".join(sorted(tools)) or "none"
        return _fault(
            call, "unknown_tool", f"There is no tool named {call.name!r}. Tools: {known}."
        )
    problem = check_arguments(chosen, call.arguments)
    if problem is not None:
        return _fault(call, "arguments", f"{call.name}: {problem}")
    async with ctx.tool_limiter.slot() as queue_s:
        started = monotonic()
        result = await _run(chosen, call, ctx.remaining_s(timeout_s))
        return replace(result, wall_s=monotonic() - started, queue_s=result.queue_s + queue_s)


async def _run(chosen: Tool, call: ToolCall, timeout_s: float) -> ToolResult:
    try:
        async with asyncio.timeout(timeout_s):
            value = await chosen(**call.arguments)
    except TimeoutError as error:
        if isinstance(error, DeadlineExceeded):
            raise
        return _fault(call, "timeout", f"{call.name} did not finish within {timeout_s:g} seconds.")
    except ToolError as error:
        return _fault(call, "execution", str(error))
    except AgentRLError:
        raise
    except Exception as error:  # noqa: BLE001  the tool border: a stranger's tool failed on this call
        return _fault(call, "execution", f"{call.name} failed: {type(error).__name__}: {error}")
    if isinstance(value, ToolResult):
        return replace(value, call_id=call.id)
    return ToolResult(call_id=call.id, content=value)


def _fault(call: ToolCall, kind: ToolFault, text: str) -> ToolResult:
    return ToolResult(call_id=call.id, content=text, error=kind)


def check_arguments(chosen: Tool, arguments: Mapping[str, JsonValue]) -> str | None:
    """One sentence on what is wrong with `arguments`, or None. Checks names, presence and types."""
    schema = chosen.schema
    properties = cast(Mapping[str, Mapping[str, JsonValue]], schema.get("properties", {}))
    required = cast(list[str], schema.get("required", []))
    missing = [name for name in required if name not in arguments]
    open_ended = schema.get("additionalProperties", False) is not False
    unknown = [name for name in arguments if name not in properties and not open_ended]
    if missing:
        return f"the argument {missing[0]!r} is missing."
    if unknown:
        return f"there is no argument {unknown[0]!r}; it takes {', '.join(properties) or 'none'}."
    for name, value in arguments.items():
        expected = properties.get(name, {}).get("type")
        if isinstance(expected, str) and not _is(value, expected):
            return f"the argument {name!r} must be of type {expected}, not {type(value).__name__}."
    return None


def _is(value: JsonValue, json_type: str) -> bool:
    if json_type in ("integer", "number") and isinstance(value, bool):
        return False
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
        "null": type(None),
    }
    return isinstance(value, kinds.get(json_type, object))
