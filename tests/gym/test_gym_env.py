"""Gymnasium's worlds as environments for language models, on worlds small enough to know by heart."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agentrl.env import Action
from agentrl.errors import UserError
from agentrl.gym import gym_env
from agentrl.gym.words import expects, plain, read
from agentrl.testing import check_env, failures
from agentrl.types import Task

TASK = Task("FrozenLake-v1/0", "Play.", seed=0)
FIRM = {"is_slippery": False}


async def test_frozen_lake_is_won_by_the_known_way():
    """Down, down, right, right, down, right on the fixed 4x4 map."""
    env = gym_env(id="FrozenLake-v1", arguments=FIRM)
    (first,) = await env.reset(TASK, seed=0)
    assert "an integer from 0 to 3" in first.content
    assert "[S]FFF\nFHFH\nFFFH\nHFFG" in first.content, "the player's colour became brackets"
    for move in (1, 1, 2, 2, 1):
        result = await env.step(Action(f"I go on. <answer>{move}</answer>"))
        assert (result.reward, result.terminated) == (0.0, False)
    assert "HF[F]G" in result.observation[0].content
    assert "Observation: 14" in result.observation[0].content
    last = await env.step(Action("<answer>2</answer>"))
    assert last[:4] == ((), 1.0, True, False)
    assert last.info.answer == "2"
    await env.close()


async def test_a_hole_ends_the_episode_with_nothing():
    env = gym_env(id="FrozenLake-v1", arguments=FIRM)
    await env.reset(TASK, seed=0)
    await env.step(Action("<answer>1</answer>"))
    assert (await env.step(Action("<answer>2</answer>")))[1:4] == (0.0, True, False)
    await env.close()


async def test_an_unreadable_action_changes_nothing():
    env = gym_env(id="FrozenLake-v1", arguments=FIRM)
    await env.reset(TASK, seed=0)
    for text in ("<answer>jump</answer>", "<answer>4</answer>", "", "<answer>1.5</answer>"):
        result = await env.step(Action(text))
        assert "an integer from 0 to 3" in result.observation[0].content
        assert result[1:4] == (0.0, False, False)
    after = await env.step(Action("<answer>2</answer>"))
    assert "S[F]FF" in after.observation[0].content
    await env.close()


async def test_siblings_see_the_same_slippery_world():
    told = []
    for _ in range(2):
        env = gym_env(id="FrozenLake-v1")
        await env.reset(Task("t", "?", seed=11), seed=99)
        seen = [(await env.step(Action("<answer>1</answer>"))).observation for _ in range(2)]
        told.append(seen)
        await env.close()
    assert told[0] == told[1]


async def test_a_box_world_takes_a_list():
    env = gym_env(id="Pendulum-v1")
    (first,) = await env.reset(TASK, seed=0)
    assert "a JSON list of 1 numbers from -2 to 2" in first.content
    reference = gymnasium.make("Pendulum-v1")
    reference.reset(seed=0)
    seen, reward, *_ = reference.step(np.array([0.5], np.float32))
    result = await env.step(Action("<answer>[0.5]</answer>"))
    assert result.reward == pytest.approx(float(reward))
    shown = json.loads(result.observation[0].content.removeprefix("Observation: "))
    assert shown == pytest.approx(seen.tolist(), rel=1e-3)
    await env.close()


async def test_it_keeps_the_env_contract():
    assert failures(await check_env(lambda: gym_env(id="FrozenLake-v1"))) == []
    assert failures(await check_env(lambda: gym_env(id="CartPole-v1"))) == []


async def test_what_cannot_be_steered_by_text_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"not MultiBinary; wrap the environment"):
        expects(spaces.MultiBinary(3))
    with pytest.raises(UserError, match=r"env\.id: .*Did you mean: `FrozenLake`"):
        gym_env(id="FrozenLke-v1")
    with pytest.raises(UserError, match=r"env=gym needs env\.id=NAME"):
        gym_env()
    with pytest.raises(UserError, match="splits train and test"):
        next(gym_env(id="CartPole-v1").tasks("dev", seed=0))


@pytest.mark.parametrize(
    ("space", "text", "action"),
    [
        (spaces.Discrete(3), " 2 ", 2),
        (spaces.Discrete(3), "3", None),
        (spaces.Discrete(3, start=-1), "-1", -1),
        (spaces.Discrete(3), "9" * 400, None),
        (spaces.Box(-1, 1, (2,), np.float32), "[0.5, -1]", [0.5, -1.0]),
        (spaces.Box(-1, 1, (2,), np.float32), "[0.5]", None),
        (spaces.Box(-1, 1, (2,), np.float32), "[0.5, 2]", None),
        (spaces.Box(-1, 1, (1,), np.float32), "0.25", [0.25]),
        (spaces.Box(-1, 1, (2, 1), np.float32), "[[0], [1]]", [[0.0], [1.0]]),
        (spaces.Box(-1, 1, (2,), np.float32), '{"a": 1}', None),
        (spaces.Box(-1, 1, (2,), np.float32), "[1, [2]]", None),
        (spaces.Box(-1, 1, (1,), np.float32), "[NaN]", None),
        (spaces.Text(5), "abc", "abc"),
        (spaces.Text(5), "too long", None),
    ],
)
def test_reading_actions(space: gymnasium.Space, text: str, action: object):
    found = read(space, text)
    assert (found.tolist() if isinstance(found, (np.ndarray, np.generic)) else found) == action


def test_observations_as_json():
    seen = {"a": np.array([1.23456, 2.0], np.float32), "b": (np.int64(3), "x")}
    assert plain(seen) == {"a": [1.235, 2.0], "b": [3, "x"]}
