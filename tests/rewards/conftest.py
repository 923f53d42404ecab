"""Trajectories and groups made by hand, for every test of the rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

import agentrl
from agentrl.chat.base import Tokenizer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.points import Ctx
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Message, Task, ToolFault

TASK = Task(id="t", question="?", answer="42")


def _call(content: str = "4", error: ToolFault | None = None, name: str = "python") -> CallRecord:
    return CallRecord(0, name, "", content, error, False, 0.0, 0.0)


def _row(turn_ids: Sequence[Sequence[int]]) -> Transcript:
    """A prompt, then the turns with one observation token between them."""
    row = Transcript().append(Segment(Origin.PROMPT, [1]))  # type: ignore[arg-type]
    for index, ids in enumerate(turn_ids):
        if index:
            row = row.append(Segment(Origin.OBSERVATION, [9]))  # type: ignore[arg-type]
        row = row.append(Segment(Origin.MODEL, ids, [-1.0] * len(ids), version=0))  # type: ignore[arg-type]
    return row


def _member(
    sibling: int = 0,
    env: float | None = 0.0,
    n_sampled: int = 1,
    *,
    rewards: Mapping[str, float] | None = None,
    turns: Sequence[str] = ("",),
    observations: Sequence[str] = (),
    turn_ids: Sequence[Sequence[int]] | None = None,
    calls: Sequence[CallRecord] = (),
    task: Task = TASK,
    prompt: str = "?",
    answer: str | None = None,
    **options: object,
) -> Trajectory:
    """One trajectory; `turns` and `observations` alternate, the first turn gets all the tokens."""
    messages = [Message("user", prompt)]
    for index, text in enumerate(turns):
        messages.append(Message("assistant", text))
        if index < len(observations):
            messages.append(Message("tool", observations[index]))
    if turn_ids is None:
        turn_ids = [[2] * n_sampled, *([3] for _ in turns[1:])]
    fields = {"stop": StopReason.TERMINATED} | options
    return Trajectory(
        f"0/{task.id}/{sibling}",
        task,
        sibling,
        (_row(turn_ids),),
        tuple(messages),
        rewards=({} if env is None else {"env": env}) | dict(rewards or {}),
        calls=tuple(calls),
        n_turns=len(turns),
        answer=answer,
        **fields,  # type: ignore[arg-type]
    )


def _group(*members: Trajectory) -> Group:
    return Group(members[0].task if members else TASK, members)


@pytest.fixture
def member() -> Callable[..., Trajectory]:
    return _member


@pytest.fixture
def group() -> Callable[..., Group]:
    return _group


@pytest.fixture
def call() -> Callable[..., CallRecord]:
    return _call


@pytest.fixture
def ctx() -> Ctx:
    return Ctx(step=0, total_steps=100, seed=0)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The shipped model's."""
    return load_tokenizer(str(Path(agentrl.__file__).parent / "_assets" / "nano"))
