"""agentrl's tools over MCP, spoken to by the mcp package's own client."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

pytest.importorskip("mcp", reason="needs the mcp extra")

from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from agentrl.cli.main import run
from agentrl.context import Context
from agentrl.errors import SandboxError, ToolError, UserError
from agentrl.serve.door import Door, door
from agentrl.serve.mcp_server import ToolRules, mcp_app
from agentrl.serve.running import port_of, server_over
from agentrl.serve.sandbox_server import listen
from agentrl.serve.tool_sessions import ToolSessions
from agentrl.serve.tool_words import read_tool_words
from agentrl.testing.fakes import FakePool
from agentrl.tool import call_tool, tool
from agentrl.toolset import Named
from agentrl.types import ToolCall
from agentrl_tools.mcp import McpServer, ServerLost
from agentrl_tools.python import PythonTool


@tool(parallel=True)
async def shout(text: str) -> str:
    """Says it louder.

    Args:
        text: what to say.
    """
    return text.upper()


def echoing(code: str) -> str | SandboxError:
    return SandboxError("the box is gone") if "gone" in code else f"ran {code}"


def tools() -> Sequence[Named]:
    return [PythonTool(), shout]


@asynccontextmanager
async def served(
    token: str | None = None, **rules: Any
) -> AsyncIterator[tuple[str, ToolSessions, FakePool]]:
    pool, allowed = FakePool(echoing), ToolRules(**rules)
    sessions = ToolSessions(tools, pool, idle_s=allowed.idle_s, most=allowed.sessions)
    listening = listen("127.0.0.1", 0)
    server = server_over(mcp_app(sessions, allowed, Door("127.0.0.1", token), None))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{port_of(listening)}/mcp", sessions, pool
        finally:
            server.should_exit = True


async def ended(sessions: ToolSessions) -> None:
    """Until the server has none left."""
    for _ in range(2000):
        if not len(sessions):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a session stays open")


async def said(client: Client, name: str, **arguments: Any) -> tuple[str, bool]:
    result = await client.call_tool(name, arguments)
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text, result.is_error


async def test_every_session_has_a_sandbox_of_its_own_until_it_ends() -> None:
    async with served() as (url, sessions, pool):
        async with Client(url) as one, Client(url) as two:
            listed = {found.name: found for found in (await one.list_tools()).tools}
            assert listed["python"].input_schema == dict(PythonTool().schema)
            assert listed["shout"].description == "Says it louder."
            assert listed["shout"].annotations is not None
            assert listed["shout"].annotations.read_only_hint
            assert await said(one, "python", code="x = 1") == ("ran x = 1", False)
            assert await said(two, "python", code="x") == ("ran x", False)
            assert await said(one, "python", code="y") == ("ran y", False)
            assert await said(one, "shout", text="hey") == ("HEY", False)
            assert [box.ran for box in pool.sandboxes] == [["x = 1", "y"], ["x"]]
            assert len(sessions) == 2
        await ended(sessions)
        assert all(box.closed for box in pool.sandboxes)


async def test_faults_of_the_model_are_told_and_the_worlds_are_errors() -> None:
    async with served() as (url, _, _), Client(url) as client:
        assert await said(client, "shout") == ("shout: the argument 'text' is missing.", True)
        assert await said(client, "shot", text="a") == (
            "There is no tool named 'shot'. Tools: python, shout.", True
        )  # fmt: skip
        with pytest.raises(MCPError, match="the box is gone"):
            await said(client, "python", code="gone")
        assert await said(client, "shout", text="on") == ("ON", False)


async def test_an_unused_session_is_closed() -> None:
    async with served(idle_s=0.3) as (url, sessions, pool), Client(url) as client:
        await said(client, "python", code="1")
        await ended(sessions)
        assert pool.sandboxes[0].closed


async def test_the_token_is_wanted() -> None:
    async with served(token="s3cret") as (url, _, _):
        async with httpx.AsyncClient() as bare:
            refused = await bare.post(url, json={})
        assert (refused.status_code, "its token" in refused.text) == (401, True)
        from mcp.shared._httpx_utils import create_mcp_http_client

        head = {"Authorization": "Bearer s3cret"}
        async with (
            create_mcp_http_client(headers=head) as shown,
            Client(streamable_http_client(url, http_client=shown)) as client,
        ):
            assert await said(client, "shout", text="in") == ("IN", False)
        async with httpx.AsyncClient(headers=head) as rebound:
            foreign = await rebound.post(url, json={}, headers={"Host": "evil.example"})
        assert foreign.status_code == 421


async def test_a_client_that_knows_no_sessions_is_told() -> None:
    async with served() as (url, sessions, _):
        async with Client(url, mode="2026-07-28") as client:
            with pytest.raises(MCPError, match="send `initialize` to get a session"):
                await said(client, "shout", text="a")
        assert len(sessions) == 0


async def test_both_directions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """agentrl's tools, served over MCP, taken by agentrl: a sandbox for each episode."""
    monkeypatch.setenv("THE_TOKEN", "s3cret")
    async with served(token="s3cret") as (url, sessions, pool):
        ends = [McpServer(url=url, token_env="THE_TOKEN", per_episode=True) for _ in range(2)]
        for i, end in enumerate(ends):
            tools = {found.name: found for found in await end.connect(Context())}
            call = ToolCall("1", "python", {"code": f"x = {i}"})
            assert (await call_tool(tools, call, Context())).content == f"ran x = {i}"
            wrong = await call_tool(tools, ToolCall("2", "python", {"code": 3}), Context())
            assert wrong.error == "arguments"
            with pytest.raises(ToolError, match="the box is gone"):
                await tools["python"](code="gone")
        assert [box.ran for box in pool.sandboxes] == [["x = 0", "gone"], ["x = 1", "gone"]]
        for end in ends:
            await end.close()
        await ended(sessions)
    lost = McpServer(url=url, token_env="THE_TOKEN", per_episode=True)
    with pytest.raises(ServerLost, match="cannot be reached"):
        await lost.connect(Context())
    await lost.close()


def test_beyond_loopback_only_with_a_token_or_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN_X", raising=False)
    with pytest.raises(UserError, match=r"set \$TOKEN_X"):
        door("0.0.0.0", "TOKEN_X", allow_no_token=False)
    assert door("0.0.0.0", "TOKEN_X", allow_no_token=True).token is None
    assert door("localhost", "TOKEN_X", allow_no_token=False).local
    monkeypatch.setenv("TOKEN_X", "t")
    guarded = door("0.0.0.0", "TOKEN_X", allow_no_token=False)
    assert (guarded.token, guarded.hosts) == ("t", ("*",))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        assert "WITH THE TOKEN" in guarded.lines("server", listening)[1]


def test_words_that_name_tools() -> None:
    assert read_tool_words(["tools=python, shout", "sandbox=none"]) == (
        ("python", "shout"), ("sandbox=none",)
    )  # fmt: skip
    (node,), _ = read_tool_words(["tools=[{name: python, timeout_s: 3}]"])
    assert not isinstance(node, str)
    assert dict(node.given) == {"timeout_s": 3}
    for words in ([], ["tools="], ["tools=[{timeout_s: 3}]"], ["tools=[python"]):
        with pytest.raises(UserError, match="tools="):
            read_tool_words(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tools=pyton"], "did you mean 'python'"),
        (["tools=[{name: python, timeout: 3}]"], "timeout"),
        (["sandbox=none"], "say which tools"),
    ],
)
def test_a_wrong_word_is_refused_before_anybody_connects(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "mcp", *words]) == 2
    assert told in capsys.readouterr().err


async def test_the_command_over_stdio() -> None:
    command = ["-m", "agentrl.cli", "serve", "mcp", "tools=python", "sandbox=none"]
    server = StdioServerParameters(command=sys.executable, args=command)
    async with Client(server) as client:
        assert await said(client, "python", code="x = 40") == ("(no output)", False)
        assert await said(client, "python", code="x + 2") == ("42", False)
        assert await said(client, "python", code="1/0") == (
            "ZeroDivisionError: division by zero", True
        )  # fmt: skip


def test_the_command_over_http_says_where_it_is_and_ends() -> None:
    words = ["serve", "mcp", "tools=python", "sandbox=none", "--http", "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "agentrl.cli", *words], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("MCP server at http://127.0.0.1:")
    assert line.strip().endswith("/mcp")
    assert "isolation" in server.stdout.readline()
    server.terminate()
    assert server.wait(60) is not None
    server.stdout.close()
