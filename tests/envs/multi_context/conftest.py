"""Plays an environment through the real loop with scripted policies and partners in nano's format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.protocols.retool import ReTool
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Generation, Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.env import Env
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.loop import run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.trajectory import Trajectory
from agentrl.transcript import Int32Array, Transcript
from agentrl.types import Task


class Speaker(ScriptedEngine):
    """Says its turns in order, the last one for ever, and remembers what it was shown."""

    def __init__(self, renderer: NanoRenderer, turns: Sequence[str]) -> None:
        super().__init__(
            lambda row, sampling, i: turns[min(i, len(turns) - 1)],
            tokenizer=renderer.tokenizer,
            encode=renderer.demo,
            end_id=renderer.stop_ids[0],
            logprob=-0.5,
        )
        self.renderer = renderer
        self.heard: list[str] = []

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        self.heard.append(self.renderer.tokenizer.decode(token_ids))
        return await super().generate(token_ids, sampling)


class Stage:
    """Makes speakers and plays episodes."""

    def __init__(self, renderer: NanoRenderer) -> None:
        self.renderer = renderer

    def speaker(self, *turns: str) -> Speaker:
        return Speaker(self.renderer, turns)

    async def play(
        self,
        make_env: Callable[[], Env],
        task: Task,
        policy: Speaker,
        partners: Mapping[str, Speaker] | None = None,
        **limits: Any,
    ) -> Trajectory:
        parts = Parts(
            make_env=make_env,
            engine=policy,
            renderer=self.renderer,
            protocol=ReTool(fence=False),
            limits=Limits(**{"max_turns": 32, **limits}),
            sampling=Sampling(max_tokens=1),
            tool_slots=Slots(4),
            partners=dict(partners or {}),
        )
        return await run_episode(task, parts, Names(9, 0, task))


def row_of(trajectory: Trajectory, context: str) -> Transcript:
    """The one row of a context."""
    (row,) = [row for row in trajectory.rows if row.context == context]
    return row


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(folder)
    return Stage(NanoRenderer(load_tokenizer(folder)))


@pytest.fixture(scope="module")
def named_row() -> Callable[[Trajectory, str], Transcript]:
    return row_of
