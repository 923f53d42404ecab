"""Adapters to other projects, played by the real loop."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agentrl.chat.protocols.hermes import Hermes
from agentrl.config import Plugin
from agentrl.points import Ctx
from agentrl.rollout.loop import Episodes
from agentrl.trajectory import StopReason

TOYS = [sys.executable, str(Path(__file__).parents[1] / "tools" / "mcp_toys.py")]
CTX = Ctx(step=0, total_steps=1, seed=0)


def toolbox(**server: Any) -> Any:
    from agentrl_envs.toolbox import Toolbox

    node = Plugin.model_validate({"name": "mcp", "command": TOYS, **server})
    return lambda: Toolbox(tools=[node], check="contains")


def call(name: str, **arguments: Any) -> str:
    told = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{told}\n</tool_call>"


async def test_an_episode_with_an_mcp_server(world: Any) -> None:
    pytest.importorskip("mcp", reason="needs the mcp extra")
    turns = (call("add", a=1, b=3), "<answer>4</answer>")
    played = await world.play(world.turns(*turns), toolbox(), protocol=Hermes(), max_tokens=9000)
    assert (played.stop, played.error) == (StopReason.TERMINATED, None)
    assert played.rewards == {"env": 1.0}
    (made,) = played.calls
    assert (made.name, made.content, made.error) == ("add", "4", None)


async def test_a_server_that_dies_mid_call_ends_episodes_as_data(world: Any) -> None:
    pytest.importorskip("mcp", reason="needs the mcp extra")
    parts = world.parts(world.turns(call("die")), toolbox(), protocol=Hermes(), max_tokens=9000)
    episodes = Episodes(parts, seed=0, retries=1)
    ended = await episodes.run(world.task, 0, CTX)
    assert ended.stop is StopReason.ERROR
    assert "died while die ran" in str(ended.error)
    fine = world.parts(
        world.turns(call("add", a=2, b=2), "<answer>4</answer>"),
        toolbox(),
        protocol=Hermes(),
        max_tokens=9000,
    )
    after = await Episodes(fine, seed=0).run(world.task, 0, CTX)
    assert after.rewards == {"env": 1.0}


@pytest.mark.skipif(
    not os.environ.get("AGENTRL_VERIFIERS_PYTHON"),
    reason="needs verifiers: set AGENTRL_VERIFIERS_PYTHON",
)
async def test_a_verifiers_environment_that_rewrites_history_gives_rows(world: Any) -> None:
    from agentrl.types import Task
    from agentrl_envs.verifiers import Verifiers

    def make() -> Verifiers:
        return Verifiers(
            id="agentrl-toys",
            args={"n": 32},
            python=os.environ["AGENTRL_VERIFIERS_PYTHON"],
            path=[str(Path(__file__).parents[1] / "envs" / "verifiers_toys")],
        )

    world.task = Task("v", "?", metadata={"split": "train", "index": 101})  # the forgetful kind
    engine = world.turns("0", "999", "202")
    played = await world.play(engine, make, protocol=Hermes(), max_tokens=9000)
    assert (played.rewards, played.n_turns, len(played.rows)) == ({"env": 1.0}, 3, 3)
    assert [message.content for message in played.messages][-2:] == ["lower", "202"]
