"""The logic environment: SynLogic's reward, its splits, options and promises."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random

import pytest

from agentrl.context import Context
from agentrl.env import Action, Expert, RandomPlayer, TaskGenerator
from agentrl.errors import UserError
from agentrl.testing.env_kit import check_env
from agentrl.testing.result import failures
from agentrl.types import Task
from agentrl_envs.logic import Logic
from agentrl_envs.logic.games import GAMES

DYCK = Task("dyck/1/x", "([", ")", {"game": "dyck", "puzzle": {"start": "(["}})


@pytest.mark.parametrize("style", ["plain", "terse"])
async def test_every_promise_is_kept(style: str) -> None:
    results = await check_env(lambda: Logic(style=style))  # type: ignore[arg-type]
    assert not failures(results)


@pytest.mark.parametrize(
    ("text", "read", "reward"),
    [
        ("<think>a</think><answer>])</answer>", "])", 1.0),
        ("</think>\n<answer>\n] )\n</answer>", "] )", 1.0),  # a template opened the thinking
        ("<answer>])</answer>", None, 0.0),  # right, but the format is not kept
        ("<think><answer>])</answer></think>", None, 0.0),  # answered while thinking
        ("<think>a</think></think><answer>])</answer>", None, 0.0),
        ("<think>a</think>])", None, 0.0),
        ("<think>a</think><answer>)]</answer>", ")]", 0.0),
        ("<think>a</think><answer>)]</answer><answer>])</answer>", "])", 1.0),
        ("", None, 0.0),
    ],
)
async def test_reward_is_format_and_correctness(text: str, read: str | None, reward: float) -> None:
    env = Logic()
    await env.reset(DYCK, seed=0)
    result = await env.step(Action(text))
    assert (result.info.answer, result.reward, result.terminated) == (read, reward, True)


async def test_the_answer_tag_alone_when_asked() -> None:
    env = Logic(format="answer")
    await env.reset(DYCK, seed=0)
    assert (await env.step(Action("<answer>])</answer>"))).reward == 1.0


async def test_huge_answers_are_wrong_at_once() -> None:
    env = Logic(format="answer")
    await env.reset(DYCK, seed=0)
    assert (await env.step(Action(f"<answer>{'])' * 10_000}</answer>"))).reward == 0.0


def test_the_stream_covers_every_game_in_turn_and_the_splits_share_no_puzzle() -> None:
    env = Logic(levels=(1, 2))
    train = list(islice(env.tasks("train", seed=0), 38))
    assert Counter(str(t.metadata["game"]) for t in train) == dict.fromkeys(GAMES, 2)
    bodies = [
        {str(t.metadata["body"]) for t in islice(env.tasks(split, seed=1), 300)}
        for split in ("train", "test")
    ]
    assert not bodies[0] & bodies[1]
    again = {str(t.metadata["body"]) for t in islice(env.tasks("train", seed=2), 300)}
    assert not again & bodies[1]


async def test_knobs_replace_a_levels_own() -> None:
    env = Logic(games=("ordering",), knobs={"ordering": {"people": 6}})
    task = next(env.tasks("train", seed=0))
    assert len(str(task.answer).split()) == 6
    assert (await env.reset(task, seed=0))[0].content.startswith("Some people stand in a row")
    terse = Logic(games=("ordering",), style="terse")
    assert (await terse.reset(task, seed=0))[0].content == task.question


async def test_players() -> None:
    env = Logic()
    assert isinstance(env, Expert)
    assert isinstance(env, RandomPlayer)
    assert isinstance(env, TaskGenerator)
    rng, blind = Random(0), 0.0
    tasks = list(islice(env.tasks("test", seed=0), 190))
    for task in tasks:
        await env.open(Context())
        await env.reset(task, seed=0)
        blind += (await env.step(Action(env.random_turn(rng)))).reward
        await env.reset(task, seed=0)
        (turn,) = env.expert(task, seed=0)
        assert (await env.step(Action(turn))).reward == 1.0
    assert env.random_ceiling is not None
    assert blind / len(tasks) < env.random_ceiling


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"games": ("sodoku",)}, "'sodoku' is no game; choose among boolean"),
        ({"games": ()}, "games is empty"),
        ({"levels": (0,)}, "choose some of 1 to 5"),
        ({"levels": ()}, "choose some of 1 to 5"),
        ({"knobs": {"chess": {}}}, "'chess' is no game"),
        ({"knobs": {"dyck": {"size": 3}}}, "dyck has length, kinds, no knob 'size'"),
        ({"knobs": {"dyck": {"kinds": 9}}}, "dyck.kinds is from 1 to 4, not 9"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Logic(**options)  # type: ignore[arg-type]


def test_foreign_tasks_and_splits_are_refused() -> None:
    with pytest.raises(UserError, match="not made by a logic game"):
        Logic().expert(Task("t", "1+1", "2"), seed=0)
    with pytest.raises(UserError, match="splits train and test"):
        Logic().tasks("dev", seed=0)


@pytest.mark.parametrize("game", GAMES)
async def test_each_game_alone_keeps_every_promise(game: str) -> None:
    results = await check_env(lambda: Logic(games=(game,), levels=(2,)))
    assert not failures(results)


async def test_a_foreign_task_is_refused_at_the_start() -> None:
    with pytest.raises(UserError, match="not made by a logic game"):
        await Logic().reset(Task("t", "1+1", "2"), seed=0)
