"""Tools of MCP servers: the other side is the mcp package's own MCPServer, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentrl.context import Context
from agentrl.env import Action
from agentrl.errors import CannotFork, UserError, WorldFault
from agentrl.testing import check_tool
from agentrl.testing.result import failures
from agentrl.tool import Tool, call_tool
from agentrl.types import ToolCall, ToolResult

pytest.importorskip("mcp", reason="needs the mcp extra")

from agentrl_envs.toolbox import Toolbox
from agentrl_tools.mcp import McpServer, ServerLost

TOYS = (sys.executable, str(Path(__file__).with_name("mcp_toys.py")))
NAMES = ["add", "point", "picture", "refuse", "die", "die_once", "process", "sleep"]


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[dict[str, Tool]]:
    server = McpServer(**({"command": TOYS} | options))
    try:
        yield {tool.name: tool for tool in await server.connect(Context())}
    finally:
        await server.close()


async def call(
    tools: dict[str, Tool], name: str, /, *, within_s: float = 30.0, **given: Any
) -> ToolResult:
    return await call_tool(tools, ToolCall("1", name, given), Context(), timeout_s=within_s)


async def test_schemas_pass_and_results_are_read() -> None:
    async with connected() as tools:
        assert list(tools) == NAMES
        assert tools["add"].description == "Adds two numbers."
        assert tools["add"].schema["properties"] == {
            "a": {"description": "the first", "title": "A", "type": "integer"},
            "b": {"default": 1, "title": "B", "type": "integer"},
        }
        assert (await call(tools, "add", a=2, b=3)).content == "5"
        assert (await call(tools, "add", a=2)).content == "3"
        shape = await call(tools, "point")
        assert shape.content.replace("\n", "").replace(" ", "") == '{"x":3,"on":[true,false]}'
        assert (
            await call(tools, "picture")
        ).content == "Sunset\n[image: image/png, 7 bytes, not shown]"


async def test_the_models_faults_teach() -> None:
    async with connected() as tools:
        refused = await call(tools, "refuse")
        assert refused.error == "execution"
        assert refused.content.endswith("only on Mondays")
        wrong = await call(tools, "add", a="two")
        assert wrong.error == "arguments"
        slow = await call(tools, "sleep", within_s=0.3)
        assert slow.error == "timeout"
        assert (await call(tools, "add", a=1)).content == "2"


async def test_a_tool_keeps_the_contract() -> None:
    async with connected(only=["point"]) as tools:
        assert failures(await check_tool(tools["point"])) == []


async def test_episodes_share_a_process_unless_told() -> None:
    async with connected() as first, connected() as second:
        assert (await call(first, "process")).content == (await call(second, "process")).content
        assert await first["process"].fork(2) == [first["process"]] * 2
    async with connected(per_episode=True) as own, connected(per_episode=True) as other:
        processes = {(await call(tools, "process")).content for tools in (first, own, other)}
        assert len(processes) == 3
        with pytest.raises(CannotFork, match="'process' cannot be copied"):
            await own["process"].fork(2)
    for process in processes - {(await call(first, "process")).content}:
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)


async def test_a_server_that_dies_is_the_worlds_fault_and_replaced() -> None:
    async with connected() as tools:
        with pytest.raises(
            ServerLost, match=r"died while die ran \(its last words: out of memory\)"
        ):
            await call(tools, "die")
        assert (await call(tools, "add", a=1)).content == "2"


async def test_a_call_that_changes_nothing_is_repeated(tmp_path: Path) -> None:
    async with connected() as tools:
        assert (await call(tools, "die_once", mark=str(tmp_path / "mark"))).content.startswith(
            "alive"
        )
    async with connected(per_episode=True) as tools:
        with pytest.raises(ServerLost, match="died while die_once ran"):
            await call(tools, "die_once", mark=str(tmp_path / "other"))


async def test_one_name_twice_gets_a_prefix() -> None:
    box = Toolbox(
        tools=[  # pyright: ignore[reportArgumentType]
            _node(command=TOYS, only=["add", "process"]),
            _node(command=TOYS, only=["add"], label="more"),
            _node(command=TOYS, only=["add"], per_episode=True),
        ]
    )
    await box.open(Context())
    assert [tool.name for tool in box.tools] == ["add", "process", "more_add", "toys_add"]
    result = await box.step(Action("", (ToolCall("1", "more_add", {"a": 4}),)))
    assert result.info.results[0].content == "5"
    await box.close()


def _node(**options: Any) -> Any:
    from agentrl.config import Plugin

    return Plugin.model_validate({"name": "mcp", **options})


@pytest.fixture
def toys_url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*TOYS, str(port)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/mcp"
    server.kill()
    server.wait()


async def test_over_streamable_http(toys_url: str) -> None:
    async with connected(command=(), url=toys_url) as tools:
        assert list(tools) == NAMES
        assert (await call(tools, "add", a=2, b=3)).content == "5"
        with pytest.raises(ServerLost):
            await call(tools, "die")
        with pytest.raises(ServerLost, match="cannot be reached"):
            await call(tools, "add", a=1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"command": ["sh", "-c", "echo no licence >&2; exit 1"]}, "last words: no licence"),
        ({"command": ["sleep", "60"], "connect_s": 0.3}, "did not answer within 0.3 seconds"),
        ({"command": (), "url": "http://127.0.0.1:9/mcp"}, "cannot be reached"),
    ],
)
async def test_a_server_that_cannot_be_had(options: dict[str, Any], told: str) -> None:
    with pytest.raises(WorldFault, match=told):
        async with connected(**options):
            pass


OLD = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") == "initialize":
        result = {"protocolVersion": "1999-01-01", "capabilities": {}, "serverInfo":
                  {"name": "old", "version": "0"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
    elif "id" in asked:
        error = {"code": -32601, "message": "Method not found"}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}), flush=True)
"""


async def test_a_server_of_another_age() -> None:
    with pytest.raises(UserError, match=r"another version of the protocol .* upgrade the older"):
        async with connected(command=[sys.executable, "-c", OLD]):
            pass


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "either a command"),
        ({"command": ["x"], "url": "http://x"}, "either a command"),
        ({"url": "localhost:80"}, "must begin with http"),
        ({"command": ["no-such-program"]}, "no program 'no-such-program'"),
        ({"url": "http://x", "token_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set"),
        ({"command": ["sh"], "connect_s": 0}, "connect_s is above 0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        McpServer(**options)


async def test_a_tool_that_the_server_lacks() -> None:
    with pytest.raises(UserError, match="no tool 'ad'; did you mean 'add'"):
        async with connected(only=["ad"]):
            pass


PARENT = """
import asyncio, sys
from agentrl.context import Context
from agentrl_tools.mcp import McpServer
async def main():
    tools = {t.name: t for t in await McpServer(command=sys.argv[1:]).connect(Context())}
    print((await tools["process"]()).content, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_does_not_outlive_a_killed_parent() -> None:
    stubborn = "trap '' TERM; sleep 77 & " + " ".join(TOYS)  # with a child that ignores SIGTERM
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, "sh", "-c", stubborn], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    process = int(parent.stdout.readline())
    group = os.getpgid(process)
    assert group != os.getpgid(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while _members(group) and time.monotonic() < until:
        time.sleep(0.05)
    assert _members(group) == []


def _members(group: int) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(folder.name))
    return found
