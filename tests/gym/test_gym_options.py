"""The terse style, random starts and maps, plans and copies of Gymnasium's worlds."""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

from agentrl.env import Action, Env, Expert, Forkable
from agentrl.errors import CannotFork, UserError
from agentrl.gym import gym_env
from agentrl.gym.planning import DISCOUNT, table_of
from agentrl.gym.words import random_action, read
from agentrl.testing import check_env, failures
from agentrl.types import Task

FIRM = {"is_slippery": False}
TASK = Task("FrozenLake-v1/0", "Play.", seed=0)


def lake(**options: Any) -> Any:
    return gym_env(**{"id": "FrozenLake-v1", "arguments": FIRM, "style": "terse", **options})


async def test_the_terse_lake_is_a_picture_and_takes_a_digit():
    env = lake()
    (first,) = await env.reset(TASK, seed=0)
    assert first.content == "@FFF\nFHFH\nFFFH\nHFFG"
    assert (await env.step(Action("1"))).observation[0].content == "SFFF\n@HFH\nFFFH\nHFFG"
    odd = await env.step(Action("north"))
    assert (odd.observation[0].content, odd.terminated) == ("?", False)
    last = await env.step(Action("2"))
    assert last[:4] == ((), 0.0, True, False)
    assert last.info.answer == "2"
    await env.close()


async def test_a_terse_world_without_a_picture_is_bare_json():
    env = gym_env(id="CartPole-v1", style="terse")
    (first,) = await env.reset(TASK, seed=0)
    reference = gymnasium.make("CartPole-v1").reset(seed=0)[0]
    shown = [float(f"{x:.4g}") for x in reference.tolist()]
    assert first.content == str(shown).replace(" ", "")
    await env.close()


async def seen(task: Task, **options: Any) -> str:
    env = lake(**options)
    (first,) = await env.reset(task, seed=0)
    await env.close()
    return first.content


async def test_random_starts_are_the_task_s_own_and_never_an_ending():
    env = lake(random_start=6)
    tasks = list(islice(env.tasks("train", seed=0), 40))
    starts = [await seen(task, random_start=6) for task in tasks]
    assert starts == [await seen(task, random_start=6) for task in tasks]
    assert 3 < len(set(starts)) < 12
    fields = "SFFFFHFHFFFHHFFG"
    for start in starts:
        place = start.replace("\n", "").index("@")
        assert fields[place] in "SF"


async def test_random_maps_are_gymnasium_s_own():
    task = Task("t", "?", seed=7)
    expected = "\n".join(generate_random_map(5, seed=7)).replace("S", "@", 1)
    assert await seen(task, random_map=5) == expected
    assert await seen(Task("t", "?", seed=8), random_map=5) != expected


def test_the_plan_s_values_by_hand():
    """Six moves from start to goal, so the start is worth 0.99 ** 5; a firm lake has no chance."""
    env = gymnasium.make("FrozenLake-v1", **FIRM)
    env.reset(seed=0)
    table = table_of(env)
    assert table is not None
    plan = table.plan()
    state, moves = 0, []
    while not moves or not table.over[state, moves[-1]]:
        state = int(table.following[state, moves[-1]]) if moves else 0
        moves.append(int(plan[state]))
    assert moves == [1, 1, 2, 1, 2, 2]
    assert table.earned(plan, 0, 6) == 1.0
    assert table.earned(plan, 0, 5) == 0.0
    values = np.zeros(16)
    for _ in range(50):
        values = (table.rewards + DISCOUNT * np.where(table.over, 0, values[table.following])).max(
            1
        )
    assert values[0] == pytest.approx(0.99**5)
    assert table.blind(1)[14] == 0.25, "one move in four reaches the goal beside it"
    assert table_of(gymnasium.make("FrozenLake-v1")) is None
    assert table_of(gymnasium.make("CartPole-v1")) is None


async def earned(env: Env, task: Task, turns: list[str]) -> tuple[float, bool]:
    await env.reset(task, seed=task.seed)
    total, over = 0.0, False
    for text in turns:
        assert not over
        result = await env.step(Action(text))
        total, over = total + result.reward, result.terminated or result.truncated
    await env.close()
    return total, over


@pytest.mark.parametrize(
    ("options", "earns"),
    [
        ({"id": "FrozenLake-v1", "arguments": FIRM}, 1.0),
        ({"id": "FrozenLake-v1", "arguments": FIRM, "random_start": 6}, 1.0),
        ({"id": "FrozenLake-v1", "arguments": FIRM, "random_map": 6}, 1.0),
        ({"id": "CliffWalking-v1"}, -13.0),
    ],
)
async def test_the_expert_takes_the_shortest_way(options: dict[str, Any], earns: float):
    env = gym_env(**options)
    assert isinstance(env, Expert)
    for task in islice(env.tasks("test", seed=1), 5):
        assert await earned(gym_env(**options), task, list(env.expert(task, seed=0))) == (
            earns,
            True,
        )


async def test_a_clumsy_expert_falls_in_and_chance_has_no_expert():
    env = lake(skill=0.4)
    tasks = list(islice(env.tasks("train", seed=0), 100))
    rewards = [(await earned(lake(), t, list(env.expert(t, seed=3))))[0] for t in tasks]
    assert 0.2 < sum(rewards) / 100 < 0.6
    assert not isinstance(gym_env(id="FrozenLake-v1"), Expert)
    with pytest.raises(UserError, match=r"env\.skill: CartPole-v1 has no plan"):
        gym_env(id="CartPole-v1", skill=0.5)


async def test_the_lake_keeps_the_contract_with_floor_and_ceiling():
    """Blind moves win the small lake about once in seventy times."""
    results = await check_env(lake)
    assert failures(results) == []
    told = {result.name: result.detail or "" for result in results}
    assert told["expert reaches the floor it declares"].endswith("floor 1")
    assert lake().random_ceiling == pytest.approx(0.0139 + 0.05, abs=0.0005)
    assert failures(await check_env(lambda: lake(random_map=4))) == []
    assert failures(await check_env(lambda: lake(random_start=4))) == []


async def test_branches_go_on_from_the_same_field():
    env = lake()
    assert isinstance(env, Forkable)
    await env.reset(TASK, seed=0)
    await env.step(Action("1"))
    one, two = await env.fork(2)
    assert (await one.step(Action("1"))).observation[0].content == "SFFF\nFHFH\n@FFH\nHFFG"
    assert (await two.step(Action("2"))).terminated
    assert (await env.step(Action("0"))).observation[0].content == "SFFF\n@HFH\nFFFH\nHFFG"
    for live in (env, one, two):
        await live.close()


async def test_branches_of_a_world_with_chance_share_their_luck():
    env = gym_env(id="FrozenLake-v1", style="terse")
    await env.reset(Task("t", "?", seed=5), seed=0)
    told = []
    for branch in await env.fork(2):
        told.append([(await branch.step(Action("1")))[:4] for _ in range(2)])
    assert told[0] == told[1]


async def test_a_world_that_cannot_be_copied_says_so():
    env = lake()
    await env.reset(TASK, seed=0)
    env._env.unwrapped.handle = (n for n in ())  # generators cannot be copied
    with pytest.raises(CannotFork, match="FrozenLake-v1 cannot be copied"):
        await env.fork(1)
    await env.close()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.Box(-1, 1, (2, 2), np.float32),
        spaces.Box(-np.inf, np.inf, (3,), np.float64),
        spaces.Box(0, np.inf, (1,), np.float32),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Text(5, min_length=1),
    ],
)
def test_random_actions_are_actions(space: gymnasium.Space[Any]):
    rng = Random(0)
    drawn = {random_action(space, rng) for _ in range(50)}
    assert len(drawn) > 2
    assert all(read(space, text) is not None for text in drawn)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"random_start": -1}, r"env\.random_start is at least 0"),
        ({"random_map": 1}, r"a side of at least 2"),
        ({"id": "CliffWalking-v1", "arguments": {}, "random_map": 4}, "takes no map"),
        ({"arguments": {"slippery": True}}, r"env\.id=FrozenLake-v1: .*slippery"),
        ({"skill": 2.0}, r"env\.skill is a probability"),
    ],
)
def test_mistakes(options: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        lake(**options)
