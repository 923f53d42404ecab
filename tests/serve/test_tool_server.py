"""verl-tool's wire format, both ways.

The format is the documented one (VerlTool, 2509.01055, and what its agent loop sends and asserts);
the package is not on PyPI, so its own code is not run here.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from agentrl.chat.protocols.fenced import Fenced
from agentrl.chat.protocols.hermes import Hermes
from agentrl.cli.main import run
from agentrl.context import Context
from agentrl.errors import SandboxError, UserError
from agentrl.serve.door import Door
from agentrl.serve.running import port_of, server_over
from agentrl.serve.sandbox_server import listen
from agentrl.serve.tool_server import Observer, read_items, tool_app
from agentrl.serve.tool_sessions import ToolSessions
from agentrl.testing.fakes import FakePool
from agentrl.tool import call_tool, tool
from agentrl.toolset import Named
from agentrl.types import ToolCall
from agentrl_tools.python import PythonTool
from agentrl_tools.verl_tool import ToolServerLost, VerlToolTool


@tool
async def double(n: int) -> str:
    """Doubles a number.

    Args:
        n: the number.
    """
    return str(2 * n)


def echoing(code: str) -> str | SandboxError:
    return SandboxError("the box is gone") if "gone" in code else f"ran {code.strip()}"


@asynccontextmanager
async def served(
    protocol: Any = None, make: Any = None, token: str | None = None, **options: Any
) -> AsyncIterator[tuple[str, ToolSessions, FakePool]]:
    pool = FakePool(echoing)
    sessions = ToolSessions(make or _python, pool, **options)
    app = tool_app(
        sessions, Observer(sessions, protocol or Fenced(), 20.0), Door("127.0.0.1", token), None
    )
    listening = listen("127.0.0.1", 0)
    server = server_over(app)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        try:
            url = f"http://127.0.0.1:{port_of(listening)}/get_observation"
            yield url, sessions, pool
        finally:
            server.should_exit = True


def _python() -> Sequence[Named]:
    return [PythonTool()]


async def post(url: str, **body: Any) -> Any:
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(url, json=body)


def as_the_agent_loop_reads_it(answer: Any, index: int) -> tuple[str, float | None, int, int]:
    """What verl-tool's agent loop asserts of an answer before it uses it."""
    observation = answer["observations"][index]
    if isinstance(observation, str):
        text, reward = observation, None
    else:
        assert isinstance(observation, dict)
        assert "obs" in observation
        text, reward = observation["obs"], observation.get("reward")
        assert isinstance(text, str)
        assert reward is None or isinstance(reward, int | float)
    return text, reward, int(answer["dones"][index]), int(answer["valids"][index])


async def test_a_batch_with_its_states_kept_apart() -> None:
    block = "```python\n{}\n```\n```output"
    async with served() as (url, sessions, pool):
        first = await post(
            url,
            trajectory_ids=["a", 7, "c"],
            actions=[block.format("x = 1"), block.format("y = 2"), "no code here"],
            finish=[False, False, False],
            is_last_step=[False, False, False],
            extra_fields=[{"task": 1}, {}, {}],
        )
        again = await post(url, trajectory_ids=["a"], actions=[block.format("x")])
        assert len(sessions) == 2
        closed = await post(
            url, trajectory_ids=["a"], actions=[""], finish=[True], is_last_step=[True]
        )
        assert len(sessions) == 1
    answer = first.json()
    assert as_the_agent_loop_reads_it(answer, 0) == ("\nran x = 1\n```\n", None, 0, 1)
    assert as_the_agent_loop_reads_it(answer, 1)[0] == "\nran y = 2\n```\n"
    assert as_the_agent_loop_reads_it(answer, 2) == ("", None, 0, 0)
    assert "no valid tool" in answer["observations"][2]["invalid_reason"]
    assert set(answer) == {"observations", "dones", "valids", "processing_time_ms"}
    assert as_the_agent_loop_reads_it(again.json(), 0)[3] == 1
    assert as_the_agent_loop_reads_it(closed.json(), 0) == ("", None, 1, 1)
    assert [box.ran for box in pool.sandboxes] == [["x = 1", "x"], ["y = 2"]]
    assert all(box.closed for box in pool.sandboxes)


async def test_the_closing_request_as_verl_tool_sends_it() -> None:
    async with served() as (url, sessions, _):
        await post(url, trajectory_ids=["abc"], actions=["```python\n1\n```"])
        assert len(sessions) == 1
        closed = await post(
            url, trajectory_ids="abc", actions=[""], finish=[True], is_last_step=[True]
        )
        assert (closed.status_code, len(sessions)) == (200, 0)


async def test_calls_of_another_protocol_and_the_models_faults() -> None:
    call = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
    async with served(Hermes(), lambda: [double]) as (url, _, _):
        answer = (
            await post(
                url,
                trajectory_ids=["a", "b", "c", "d"],
                actions=[
                    call.format("double", '{"n": 4}') + call.format("double", '{"n": 5}'),
                    call.format("double", '{"m": 4}'),
                    call.format("halve", '{"n": 4}'),
                    "<tool_call>\n{oops",
                ],
            )
        ).json()
    read = [as_the_agent_loop_reads_it(answer, i) for i in range(4)]
    assert read[0] == ("8\n10", None, 0, 1)
    assert [r[3] for r in read[1:]] == [0, 0, 0]
    assert "'n' is missing" in read[1][0]
    assert "There is no tool named 'halve'" in read[2][0]
    assert "not valid JSON" in read[3][0]


async def test_a_lost_box_ends_its_trajectory_and_spares_the_batch() -> None:
    block = "```python\n{}\n```"
    async with served() as (url, _, _):
        answer = (
            await post(
                url, trajectory_ids=["a", "b"], actions=[block.format("gone"), block.format("1")]
            )
        ).json()
    assert as_the_agent_loop_reads_it(answer, 0) == ("", None, 1, 0)
    assert answer["observations"][0]["error"] == "the box is gone"
    assert as_the_agent_loop_reads_it(answer, 1)[3] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"trajectory_ids": [], "actions": []},
        {"trajectory_ids": ["a"], "actions": ["x", "y"]},
        {"trajectory_ids": ["a"], "actions": ["x"], "finish": [True, False]},
        {"trajectory_ids": ["a"], "actions": ["x"], "extra_fields": {"a": 1}},
        {"trajectory_ids": ["a"], "actions": [3]},
    ],
)
async def test_requests_that_do_not_add_up_are_refused(body: dict[str, Any]) -> None:
    async with served() as (url, _, _):
        answer = await post(url, **body)
    assert answer.status_code == 400
    assert "must be" in answer.json()["detail"]


async def test_the_token_and_the_number_of_trajectories() -> None:
    block = "```python\n1\n```"
    async with served(token="t0p", most=1) as (url, _, _), httpx.AsyncClient(timeout=30) as client:
        refused = await client.post(url, json={})
        head = {"Authorization": "Bearer t0p"}
        body = {"trajectory_ids": ["a"], "actions": [block]}
        first = await client.post(url, json=body, headers=head)
        body = {"trajectory_ids": ["b"], "actions": [block]}
        second = await client.post(url, json=body, headers=head)
    assert refused.status_code == 401
    assert first.json()["valids"] == [True]
    assert "1 sessions are open already" in second.json()["observations"][0]["error"]


def test_finish_may_stand_in_the_extra_fields() -> None:
    items = read_items(
        {"trajectory_ids": ["a", "b"], "actions": ["", ""], "extra_fields": [{"finish": True}, {}]}
    )
    assert [item.finish for item in items] == [True, False]


async def test_our_tool_over_our_server_keeps_a_trajectory() -> None:
    async with served() as (url, sessions, pool):
        remote = VerlToolTool(url=url, name="python", template="```python\n{code}\n```")
        assert remote.schema["required"] == ["code"]
        await remote.open(Context())
        for code in ("x = 1", "x"):
            call = ToolCall("1", "python", {"code": code})
            result = await call_tool({"python": remote}, call, Context())
            assert (result.content.strip(), result.error) == (f"ran {code}\n```", None)
        wrong = await call_tool({"python": remote}, ToolCall("1", "python", {}), Context())
        assert wrong.error == "arguments"
        with pytest.raises(ToolServerLost, match="the box is gone"):
            await remote(code="gone")
        assert len(sessions) == 1
        await remote.close()
        await remote.close()
        assert len(sessions) == 0
    assert pool.sandboxes[0].ran == ["x = 1", "x", "gone"]


async def test_what_is_no_tool_server_is_a_fault_of_the_world() -> None:
    silent = listen("127.0.0.1", 0)
    with silent:
        deaf = VerlToolTool(url=f"http://127.0.0.1:{port_of(silent)}/x", timeout_s=0.3)
        await deaf.open(Context())
        with pytest.raises(ToolServerLost, match="cannot be reached"):
            await deaf(action="x")
        await deaf.close()
    async with served() as (url, _, _):
        for wrong, told in ((url + "s", "answered 404"), (url[:-15] + "health", "answered 405")):
            lost = VerlToolTool(url=wrong)
            await lost.open(Context())
            with pytest.raises(ToolServerLost, match=told):
                await lost(action="x")
            await lost.close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "ftp://x"}, "must begin with http"),
        ({"url": "http://x", "template": "no field"}, "needs at least one field"),
        ({"url": "http://x", "template": "{"}, "cannot be read"),
        ({"url": "http://x", "timeout_s": 0}, "above 0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        VerlToolTool(**options)


def test_the_command_says_where_it_is_answers_and_ends() -> None:
    words = ["serve", "tools", "tools=python", "sandbox=none", "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "agentrl.cli", *words], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line.startswith("tool server at http://127.0.0.1:")
    url = line.rpartition(" ")[2].strip()
    assert "isolation" in server.stdout.readline()
    turns = ("```python\nx = 20\n```", "```python\nprint(x + 1)\n```\n```output")
    for turn, told in zip(turns, ("(no output)", "21"), strict=True):
        body = {"trajectory_ids": ["a"], "actions": [turn]}
        answer = httpx.post(url, json=body, timeout=60).json()
        assert told in answer["observations"][0]
    server.terminate()
    assert server.wait(60) is not None
    server.stdout.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tools=python", "--protocol", "fence"], "did you mean 'fenced'"),
        (["tools=python", "--host", "0.0.0.0"], "set $AGENTRL_TOOLS_TOKEN"),
        (["tools=python", "--sessions", "0"], "at least 1"),
    ],
)
def test_a_wrong_word_is_one_sentence(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTRL_TOOLS_TOKEN", raising=False)
    assert run(["serve", "tools", "sandbox=none", "--port", "0", *words]) == 2
    assert told in capsys.readouterr().err
