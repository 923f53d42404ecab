"""The promises of `agentrl.tool.Tool`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

from agentrl.context import Context
from agentrl.rollout.limits import Lease
from agentrl.sandbox import SandboxPool
from agentrl.testing.fakes import FakePool
from agentrl.testing.result import CheckResult, expect, promise, run_checks
from agentrl.tool import Tool, call_tool
from agentrl.types import JsonValue, ToolCall, ToolResult

Arguments: TypeAlias = Mapping[str, JsonValue]


async def check_tool(
    tool: Tool | Callable[[], Tool],
    *,
    arguments: Arguments | None = None,
    pool: SandboxPool | None = None,
) -> list[CheckResult]:
    """Test a tool, or a factory of tools, against the contract.

    Args:
        tool: the tool itself when it is stateless, else a factory; each check makes a fresh one.
        arguments: a call that must succeed; without it one is made up from the schema, and a
            ToolError for what it says counts as a proper answer.
        pool: where a tool leases its sandbox; a fake that prints nothing by default.
    """
    kit = _Kit(tool, arguments, pool or FakePool(lambda _: ""))
    checks = [
        promise(kit.name),
        promise(kit.description),
        promise(kit.schema),
        promise(kit.plain),
        promise(kit.described),
        promise(kit.call),
        promise(kit.missing),
        promise(kit.unknown),
        promise(kit.wrong_type),
        promise(kit.close_twice),
        promise(kit.reopen),
        promise(kit.parallel),
    ]
    return await run_checks(checks)


class _Kit:
    def __init__(
        self, tool: Tool | Callable[[], Tool], arguments: Arguments | None, pool: SandboxPool
    ) -> None:
        self._tool = tool
        self._given = arguments
        self._pool = pool

    def fresh(self) -> Tool:
        """A tool to test; one instance is shared when no factory was given."""
        if isinstance(self._tool, type) or not isinstance(self._tool, Tool):
            return cast(Callable[[], Tool], self._tool)()
        return self._tool

    def arguments(self, tool: Tool) -> Arguments:
        """The call that was given, or one made up from the schema."""
        return self._given if self._given is not None else example(tool.schema)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[tuple[Tool, Context]]:
        """A fresh tool, open, and its surroundings; closed whatever happens."""
        tool, lease = self.fresh(), Lease(self._pool)
        ctx = Context(lease_sandbox=lease.get)
        await tool.open(ctx)
        try:
            yield tool, ctx
        finally:
            await tool.close()
            await lease.close()

    async def name(self) -> str:
        """Name is an identifier."""
        name = self.fresh().name
        expect(name.replace("-", "_").isidentifier(), f"{name!r} cannot be called in every format")
        return name

    async def description(self) -> None:
        """Description addresses the model."""
        expect(len(self.fresh().description.split()) >= 3, "say in a sentence what the tool does")

    async def schema(self) -> None:
        """Schema describes an object."""
        schema = self.fresh().schema
        expect(schema.get("type") == "object", "schema['type'] is 'object'")
        expect(isinstance(schema.get("properties", {}), Mapping), "'properties' is a mapping")
        extra = set(_required(schema)) - set(_properties(schema))
        expect(not extra, f"required but not among the properties: {sorted(extra)}")

    async def plain(self) -> None:
        """Schema is plain JSON."""
        schema = dict(self.fresh().schema)
        expect(json.loads(json.dumps(schema)) == schema, "the schema changes in a JSON round trip")

    async def described(self) -> None:
        """Every argument is described."""
        bare = [k for k, v in _properties(self.fresh().schema).items() if not v.get("description")]
        expect(not bare, f"the model gets no description of {', '.join(bare)}; add an `Args:` line")

    async def call(self) -> str:
        """A good call is answered."""
        async with self.opened() as (tool, ctx):
            result = await _call(tool, self.arguments(tool), ctx)
        refused = result.error == "execution" and self._given is None
        expect(result.error is None or refused, f"{result.error}: {result.content}")
        return f"answered {result.content[:40]!r}"

    async def missing(self) -> str | None:
        """A missing argument is corrected."""
        async with self.opened() as (tool, ctx):
            required = _required(tool.schema)
            if not required:
                return "skipped: it requires no argument"
            given = {k: v for k, v in self.arguments(tool).items() if k != required[0]}
            _expect_taught(await _call(tool, given, ctx), required[0])

    async def unknown(self) -> None:
        """An unknown argument is corrected."""
        async with self.opened() as (tool, ctx):
            given = {**self.arguments(tool), "no_such_argument": 1}
            _expect_taught(await _call(tool, given, ctx), "no_such_argument")

    async def wrong_type(self) -> str | None:
        """A wrong type is corrected."""
        async with self.opened() as (tool, ctx):
            typed = [k for k, v in _properties(tool.schema).items() if v.get("type") in _EXAMPLES]
            if not typed:
                return "skipped: no argument has a plain type"
            wrong: JsonValue = 7 if _properties(tool.schema)[typed[0]]["type"] == "string" else "x"
            given = {**self.arguments(tool), typed[0]: wrong}
            _expect_taught(await _call(tool, given, ctx), typed[0])

    async def close_twice(self) -> None:
        """Close is idempotent."""
        async with self.opened() as (tool, _):
            await tool.close()

    async def reopen(self) -> None:
        """Opens again for the next episode."""
        tool = self.fresh()
        for _ in range(2):
            lease = Lease(self._pool)
            await tool.open(Context(lease_sandbox=lease.get))
            await tool.close()
            await lease.close()

    async def parallel(self) -> str | None:
        """Parallel calls agree with serial ones."""
        async with self.opened() as (tool, ctx):
            if not tool.parallel:
                return "skipped: the tool is serial"
            arguments = self.arguments(tool)
            alone = await _call(tool, arguments, ctx)
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(_call(tool, arguments, ctx)) for _ in range(4)]
            for task in running:
                answer = task.result().content
                expect(answer == alone.content, f"alone {alone.content!r}, together {answer!r}")


async def _call(tool: Tool, arguments: Arguments, ctx: Context) -> ToolResult:
    return await call_tool({tool.name: tool}, ToolCall("call_0_0", tool.name, arguments), ctx)


def _expect_taught(result: ToolResult, argument: str) -> None:
    expect(result.error == "arguments", f"expected a correction, got {result.error}")
    expect(argument in result.content, f"the correction does not name {argument!r}")


_EXAMPLES: Mapping[str, JsonValue] = {
    "string": "1 + 1",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
}


def example(schema: Mapping[str, JsonValue]) -> Arguments:
    """Arguments that fit a schema: its examples and defaults first, then plain values."""
    return {
        name: _value(node)
        for name, node in _properties(schema).items()
        if name in _required(schema)
    }


def _value(node: Mapping[str, JsonValue]) -> JsonValue:
    for key in ("examples", "enum"):
        choices = node.get(key)
        if isinstance(choices, list) and choices:
            return choices[0]
    kind = node.get("type")
    if kind == "array":
        return []
    if kind == "object":
        return {}
    return _EXAMPLES.get(str(kind))


def _properties(schema: Mapping[str, JsonValue]) -> Mapping[str, Mapping[str, JsonValue]]:
    return cast(Mapping[str, Mapping[str, JsonValue]], schema.get("properties", {}))


def _required(schema: Mapping[str, JsonValue]) -> list[str]:
    return cast(list[str], schema.get("required", []))
