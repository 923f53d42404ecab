"""Every registered environment through Gymnasium's door, under Gymnasium's own checker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from agentrl.errors import SetupError, UserError
from agentrl.gym import AgentEnv
from agentrl.registry import names

NEEDS = {"gym", "openenv", "toolbox", "trl_class", "verifiers"}
"""These play what an option names."""


@pytest.mark.parametrize("name", sorted(set(names("env")) - NEEDS))
def test_gymnasium_s_checker_is_content(name: str):
    try:
        made = gymnasium.make(f"agentrl.gym:agentrl/{name}-v0", render_mode="ansi")
    except SetupError as error:
        pytest.skip(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made.unwrapped)
    made.close()


def test_a_class_in_trl_s_shape_goes_through_gymnasium_s_door():
    game = Path(__file__).parents[1] / "envs" / "trl_game.py"
    made = gymnasium.make("agentrl.gym:agentrl/trl_class-v0", path=f"{game}:Game", prompt="Guess.")
    check_env(made.unwrapped, skip_render_check=True)
    first, info = made.reset(seed=1)
    assert (first.splitlines()[-1], info["tools"]) == (
        "Guess. It is between 1 and 9.",
        ["guess", "peek"],
    )
    made.close()


def test_an_environment_that_lacks_its_option_says_so():
    with pytest.raises(UserError, match=r"env\.path"):
        gymnasium.make("agentrl.gym:agentrl/trl_class-v0")


def test_make_works_without_importing_agentrl_first_inside_a_running_loop():
    """Unicode and a control character in, a renewed context out."""
    code = (
        "import asyncio, gymnasium\n"
        "async def play():\n"
        "    env = gymnasium.make('agentrl.gym:agentrl/delethink-v0')\n"
        "    first, info = env.reset(seed=3)\n"
        "    seen, reward, over, cut, info = env.step('\\u00e9 \\U0001f980 \\u202e \\x00')\n"
        "    assert seen in env.observation_space and first.split('\\n\\n')[0] in seen\n"
        "    assert '\\U0001f980' in seen and (reward, over, cut) == (0.0, False, False)\n"
        "    env.close()\n"
        "    return info['context']\n"
        "print(asyncio.run(play()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "chunk 2\n", done.stderr


def test_a_world_of_gymnasium_s_goes_out_and_comes_back():
    """FrozenLake as an agentrl environment as a Gymnasium environment: the known way wins."""
    options = {"id": "FrozenLake-v1", "arguments": {"is_slippery": False}, "style": "terse"}

    async def play() -> list[float]:
        env = AgentEnv("gym", **options)
        first, _ = env.reset(seed=0)
        assert first == "@FFF\nFHFH\nFFFH\nHFFG"
        rewards = [float(env.step(move)[1]) for move in "112212"]
        env.close()
        return rewards

    assert asyncio.run(play()) == [0, 0, 0, 0, 0, 1]
