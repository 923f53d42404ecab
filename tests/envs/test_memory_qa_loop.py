"""memory_qa through the rollout loop: a row per session and one for the answer, each role's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest

from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.hermes import Hermes
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.loop import run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.trajectory import StopReason, Trajectory
from agentrl.types import Task
from agentrl_envs.memory_qa import MemoryQA

Play = Callable[..., Any]


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> NanoRenderer:
    folder = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(folder)
    return NanoRenderer(load_tokenizer(folder))


def engine_of(renderer: NanoRenderer, turns: Sequence[str]) -> ScriptedEngine:
    def write(row: object, sampling: Sampling, index: int) -> list[int]:
        return renderer.demo(turns[index], ended=True).tolist()

    return ScriptedEngine(write, tokenizer=renderer.tokenizer)


@pytest.fixture
def play(renderer: NanoRenderer) -> Play:
    async def one(
        task: Task, options: dict[str, Any], turns: Sequence[str], **more: Any
    ) -> Trajectory:
        parts = Parts(
            make_env=lambda: MemoryQA(**options),
            engine=engine_of(renderer, turns),
            renderer=renderer,
            protocol=Hermes(),
            limits=Limits(max_tokens=1024),
            sampling=Sampling(max_tokens=1),
            tool_slots=Slots(4),
            partners={name: engine_of(renderer, said) for name, said in more.items()},
        )
        return await run_episode(task, parts, Names(1, 0, task))

    return one


TERSE: dict[str, Any] = {"style": "terse", "sessions": 3}


def task_and_turns(**options: Any) -> tuple[Task, list[str]]:
    env = MemoryQA(**TERSE, **options)
    task = list(islice(env.tasks("train", seed=0), 4))[3]
    return task, list(env.expert(task, seed=0))


async def test_every_session_has_a_row_that_begins_afresh(
    play: Play, renderer: NanoRenderer
) -> None:
    task, turns = task_and_turns()
    trajectory = await play(task, TERSE, turns)
    assert trajectory.stop is StopReason.TERMINATED
    assert [row.context for row in trajectory.rows] == ["", "session 2", "session 3", "answer"]
    texts = [renderer.tokenizer.decode(row.token_ids) for row in trajectory.rows]
    for text, turn in zip(texts, turns, strict=True):
        assert text.count("<|user|>") == text.count("<|assistant|>") == 1
        assert text.endswith(f"{turn}<|end|>")
    assert [int(row.mask.sum()) for row in trajectory.rows] == [
        len(renderer.demo(turn, ended=True)) for turn in turns
    ]
    assert trajectory.rewards["env"] == 1.0
    assert trajectory.answer == task.answer


async def test_a_partner_answers_and_only_the_manager_is_trained(play: Play) -> None:
    task, turns = task_and_turns()
    options = {**TERSE, "answerer": "frozen"}
    trajectory = await play(task, options, turns[:3], frozen=turns[3:])
    *managed, answered = trajectory.rows
    assert all(row.mask.any() for row in managed)
    assert not answered.mask.any()
    assert answered.segments[-1].policy == "frozen"
    assert trajectory.rewards["env"] == 1.0


async def test_one_role_makes_one_row(play: Play) -> None:
    for options in ({"manages": "linked", "answerer": "exact"}, {"manager": "exact"}):
        task, turns = task_and_turns(**options)
        trajectory = await play(task, {**TERSE, **options}, turns)
        assert [row.context for row in trajectory.rows] == [""]
        assert trajectory.rewards["env"] == 1.0


def test_the_terse_rows_are_short(renderer: NanoRenderer) -> None:
    """What the shipped configuration allows: 48 tokens a turn."""
    env = MemoryQA(**TERSE)
    turns = [turn for t in islice(env.tasks("test", seed=1), 200) for turn in env.expert(t, seed=0)]
    assert max(len(renderer.demo(turn, ended=True)) for turn in turns) <= 48
