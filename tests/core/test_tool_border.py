"""The `@tool` decorator and the three fates of a failing call."""

from __future__ import annotations

import asyncio
import pickle
from time import monotonic
from typing import Literal

import pytest

from agentrl import errors
from agentrl.context import Context
from agentrl.errors import SandboxError, ToolError, UserError, WorldFault
from agentrl.tool import FunctionTool, Tool, call_tool, tool
from agentrl.types import JsonValue, ToolCall, ToolResult


@tool
async def divide(a: float, b: float = 2.0, mode: Literal["exact", "floor"] = "exact") -> str:
    """Divides one number
    by another.

    Args:
        a: the dividend.
        b: the divisor.
    """
    if mode == "floor" and b < 0:
        raise ToolError("floor needs a positive divisor")
    return str(a // b if mode == "floor" else a / b)


def call(name: str = "divide", **arguments: JsonValue) -> ToolCall:
    return ToolCall("call_0_0", name, arguments)


async def answer(made: Tool, asked: ToolCall, ctx: Context | None = None) -> ToolResult:
    return await call_tool({made.name: made}, asked, ctx or Context())


def test_a_function_describes_itself():
    assert isinstance(divide, Tool)
    assert (divide.name, divide.parallel) == ("divide", False)
    assert divide.description == "Divides one number by another."
    assert divide.schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["a"],
        "properties": {
            "a": {"type": "number", "description": "the dividend."},
            "b": {"type": "number", "description": "the divisor.", "default": 2.0},
            "mode": {"type": "string", "enum": ["exact", "floor"], "default": "exact"},
        },
    }


def test_parallel_is_declared():
    async def ping() -> str:
        """Says pong to whoever asks."""
        return "pong"

    assert tool(parallel=True)(ping).parallel


def test_a_tool_without_words_or_types_is_refused():
    async def silent() -> str:
        return ""

    async def untyped(x) -> str:  # type: ignore[no-untyped-def]
        """Has an argument of no type."""
        return str(x)

    with pytest.raises(TypeError, match="silent needs a docstring"):
        tool(silent)
    with pytest.raises(TypeError, match="argument 'x' needs a type annotation"):
        tool(untyped)


async def test_a_good_call():
    result = await answer(divide, call(a=7, b=2, mode="floor"))
    assert (result.call_id, result.content, result.error) == ("call_0_0", "3", None)


@pytest.mark.parametrize(
    ("asked", "fault", "told"),
    [
        (call("multiply", a=1), "unknown_tool", "no tool named 'multiply'. Tools: divide."),
        (call(b=1), "arguments", "the argument 'a' is missing"),
        (call(a=1, c=1), "arguments", "no argument 'c'; it takes a, b, mode"),
        (call(a="one"), "arguments", "'a' must be of type number, not str"),
        (call(a=True), "arguments", "'a' must be of type number, not bool"),
        (call(a=1, b=0), "execution", "ZeroDivisionError"),
        (call(a=1, b=-1, mode="floor"), "execution", "floor needs a positive divisor"),
    ],
)
async def test_the_model_s_fault_becomes_an_observation(asked: ToolCall, fault: str, told: str):
    result = await answer(divide, asked)
    assert result.error == fault
    assert told in result.content


def raising(error: BaseException) -> FunctionTool:
    async def fails() -> str:
        """Fails in one way or another."""
        raise error

    return tool(fails)


@pytest.mark.parametrize("error", [SandboxError("lost"), UserError("bad"), WorldFault("down")])
async def test_the_world_s_and_our_own_fault_pass_through(error: Exception):
    with pytest.raises(type(error)):
        await answer(raising(error), call("fails"))


async def test_a_call_that_outlives_its_deadline_is_told_so():
    @tool
    async def sleeps() -> str:
        """Sleeps for a very long time."""
        await asyncio.sleep(60)
        return ""

    started = monotonic()
    result = await call_tool({"sleeps": sleeps}, call("sleeps"), Context(), timeout_s=0.05)
    assert (result.error, monotonic() - started < 5) == ("timeout", True)
    soon = Context(deadline=monotonic() + 0.05)
    assert (await answer(sleeps, call("sleeps"), soon)).error == "timeout"


async def test_cancelling_an_episode_cancels_its_call():
    cancelled = asyncio.Event()

    @tool
    async def waits() -> str:
        """Waits until somebody gives up."""
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await answer(waits, call("waits"))
    assert cancelled.is_set()


def test_errors_survive_a_process_border():
    made = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(made) == 14
    for kind in made:
        copy = pickle.loads(pickle.dumps(kind("what happened")))  # noqa: S301
        assert (type(copy), str(copy)) == (kind, "what happened")
