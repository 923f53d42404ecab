"""Environments of real OpenEnv servers, written with that package's classes, on loopback.

The package cannot live beside mcp 2, so its server runs with the Python named by
$AGENTRL_OPENENV_PYTHON (one with `pip install openenv`), or with this one where it is installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentrl.context import Context
from agentrl.env import Action, StepResult
from agentrl.errors import UserError, WorldFault
from agentrl.testing import check_env
from agentrl.testing.result import failures
from agentrl.types import Task, ToolCall
from agentrl_envs.openenv import OpenEnv, OpenEnvFull, OpenEnvLost

for needed in ("websockets", "httpx"):
    pytest.importorskip(needed, reason="needs the openenv extra")

PYTHON = os.environ.get("AGENTRL_OPENENV_PYTHON") or (
    sys.executable if importlib.util.find_spec("openenv") else ""
)
TOYS = Path(__file__).with_name("openenv_toys.py")
real = pytest.mark.skipif(not PYTHON, reason="needs openenv: set AGENTRL_OPENENV_PYTHON")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(*kinds: str, **env: str) -> Iterator[dict[str, str]]:
    """Kind -> the root of its server; one process for all."""
    ports = {kind: free_port() for kind in kinds}
    words = [f"{kind}:{port}:{1 if kind == 'single' else 8}" for kind, port in ports.items()]
    server = subprocess.Popen(
        [PYTHON, str(TOYS), *words],
        env=os.environ | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 90
        for port in ports.values():
            while time.monotonic() < until and server.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
        yield {kind: f"http://127.0.0.1:{port}" for kind, port in ports.items()}
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with served("guessing", "single", "words", "shop") as urls:
        yield urls


@pytest.fixture
def guessing(urls: dict[str, str]) -> str:
    return urls["guessing"]


@asynccontextmanager
async def live(url: str, **options: Any) -> Any:
    env = OpenEnv(url=url, **options)
    try:
        await env.open(Context())
        yield env
    finally:
        await env.close()


async def call(env: OpenEnv, tool: str, /, **arguments: Any) -> StepResult:
    return await env.step(Action("", (ToolCall("1", tool, arguments),)))


@real
async def test_an_episode_of_typed_actions(guessing: str) -> None:
    async with live(guessing, instructions="Play.") as env:
        (tool,) = env.tools
        assert (tool.name, tool.description) == ("act", "Guess the number.")
        assert list(tool.schema["properties"]) == ["number"]
        first = await env.reset(Task("t", "?", metadata={"reset": {"greeting": "Hi."}}), seed=5)
        assert [(m.role, m.content) for m in first] == [("system", "Play."), ("user", "Hi.")]
        secret = Random(5).randrange(10)  # what the server draws from the seed
        low = await call(env, "act", number=max(0, secret - 1))
        assert low.observation[0].content == "text: higher\ntries: 1"
        assert (low.reward, low.terminated) == (-0.1, False)
        wrong = await call(env, "act", number="nine")
        assert wrong.info.results[0].error == "arguments"
        out = await call(env, "act", number=12)
        assert out.info.results[0].error == "execution"
        assert "number: Input should be less than or equal to 9" in out.observation[0].content
        won = await call(env, "act", number=secret)
        assert (won.reward, won.terminated, won.observation[0].content) == (1.0, True, "yes")


@real
async def test_calls_after_the_end_are_not_run(guessing: str) -> None:
    async with live(guessing) as env:
        await env.reset(Task("t", "?"), seed=5)
        secret = Random(5).randrange(10)
        calls = tuple(ToolCall(str(i), "act", {"number": secret}) for i in range(2))
        step = await env.step(Action("", calls))
        assert (step.reward, len(step.info.results)) == (1.0, 1)
        assert step.observation[1].content == "The episode is over."


@real
async def test_sessions_are_apart_and_a_turn_without_a_call_ends(guessing: str) -> None:
    async with live(guessing) as one, live(guessing) as two:
        for env, seed in ((one, 1), (two, 2)):
            await env.reset(Task("t", "?"), seed=seed)
        for env, seed in ((one, 1), (two, 2)):
            assert (await call(env, "act", number=Random(seed).randrange(10))).terminated
        await one.reset(Task("t", "?"), seed=1)
        ended = await one.step(Action("I give up"))
        assert (ended.terminated, ended.reward, ended.info.answer) == (True, 0.0, "I give up")


@real
async def test_it_keeps_the_contract(guessing: str) -> None:
    assert failures(await check_env(lambda: OpenEnv(url=guessing))) == []
    async with live(guessing) as env:
        assert env.random_turn(Random(3)).startswith('<tool_call>\n{"name": "act", "arguments"')


@real
async def test_turns_of_text(urls: dict[str, str]) -> None:
    url = urls["words"]
    async with live(url, action="text") as env:
        assert env.tools == ()
        await env.reset(Task("t", "?"), seed=0)
        said = [await env.step(Action(word)) for word in ("HEY", "hey", "oops", "HEY", "HEY")]
        told = [step.observation[0].content for step in said[:4]]
        assert told == ["1 of 3", "1 of 3", "no such word", "2 of 3"]
        assert (said[4].reward, said[4].terminated) == (1.0, True)
    with pytest.raises(UserError, match="no field 'wrd'; the action's fields are word"):
        async with live(url, action="text", field="wrd"):
            pass


@real
async def test_tools_over_mcp_inside(urls: dict[str, str]) -> None:
    url = urls["shop"]
    async with live(url) as env:
        assert [tool.name for tool in env.tools] == ["price", "buy"]
        assert env.tools[1].schema["required"] == ["item"]
        await env.reset(Task("t", "?"), seed=0)
        assert (await call(env, "price", item="hat")).observation[0].content == "hat: 3 coins"
        bought = await call(env, "buy", item="hat", count=2)
        assert bought.observation[0].content == '{"item": "hat", "bought": 2}'
        refused = await call(env, "price", item="moon")
        assert refused.info.results[0].error == "execution"
        assert "not for sale" in refused.observation[0].content


@real
async def test_a_server_of_one_session(urls: dict[str, str]) -> None:
    url = urls["single"]
    async with live(url):
        with pytest.raises(OpenEnvFull, match=r"serves 1 sessions at once: say env.sessions=1"):
            async with live(url, wait_s=0.2):
                pass

    async def play(seed: int) -> float:
        async with live(url, sessions=1) as env:
            await env.reset(Task("t", "?"), seed=seed)
            return (await call(env, "act", number=Random(seed).randrange(10))).reward

    async with asyncio.TaskGroup() as group:
        played = [group.create_task(play(seed)) for seed in range(4)]
    assert [task.result() for task in played] == [1.0] * 4
    assert await play(9) == 1.0  # without a wait the place is free again, or soon


@real
async def test_a_server_that_dies_or_cannot_reset() -> None:
    with served("guessing", DIE_ON_SEVEN="1") as urls:
        url = urls["guessing"]
        async with live(url) as env:
            with pytest.raises(OpenEnvLost, match="cannot reset: the dice are lost"):
                await env.reset(Task("t", "?", metadata={"reset": {"broken": True}}), seed=0)
            await env.reset(Task("t", "?"), seed=0)
            with pytest.raises(OpenEnvLost, match="went away during step"):
                await call(env, "act", number=7)
        with pytest.raises(OpenEnvLost, match="no OpenEnv server answers"):
            async with live(url):
                pass


async def test_what_is_no_openenv_server() -> None:
    with pytest.raises(WorldFault, match=r"no OpenEnv server answers at http://127\.0\.0\.1:9"):
        async with live("http://127.0.0.1:9"):
            pass

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(page, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(UserError, match="is no OpenEnv server: GET /schema answered 200"):
            async with live(f"http://127.0.0.1:{port}/"):
                pass


async def test_a_server_of_another_version() -> None:
    import json

    from websockets.asyncio.server import ServerConnection, serve
    from websockets.http11 import Request, Response

    def schema(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/ws":
            return None
        return connection.respond(200, json.dumps({"action": {"type": "object", "properties": {}}}))

    async def answer(connection: ServerConnection) -> None:
        async for _ in connection:
            await connection.send(json.dumps({"version": 9, "payload": {}}))

    async with serve(answer, "127.0.0.1", 0, process_request=schema) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(UserError, match=r"answers state in a form .* openenv 0.3 to 0.10"):
            async with live(f"http://127.0.0.1:{port}"):
                pass


def test_tasks_are_seeds_and_the_splits_share_none() -> None:
    env = OpenEnv(url="http://x")
    train, test = (list(islice(env.tasks(split, seed=3), 50)) for split in ("train", "test"))
    assert train == list(islice(OpenEnv(url="http://x").tasks("train", seed=3), 50))
    assert all(task.seed % 2 == 0 for task in train)
    assert all(task.seed % 2 == 1 for task in test)
    with pytest.raises(UserError, match="splits train and test"):
        env.tasks("dev", seed=0)


@pytest.mark.parametrize(
    "options", [{"url": "localhost:8000"}, {"message_s": 0}, {"wait_s": -1}, {"sessions": 0}]
)
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        OpenEnv(**({"url": "http://x"} | options))
