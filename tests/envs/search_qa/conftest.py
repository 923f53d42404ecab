"""Episodes played through the real loop by an engine that writes given turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from agentrl.chat.nano import NanoRenderer, build_nano_tokenizer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.base import Generation, Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.env import Env
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services
from agentrl.registry import resolve
from agentrl.rewards.base import chain, summed
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.loop import run_episode
from agentrl.rollout.parts import Names, Parts
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task

DOGS = Task(
    "file/0",
    "Who feeds the dog of Ada",
    "Bob",
    {
        "answers": ["Bob", "Robert Bob"],
        "support": ["Ada", "Rex"],
        "passages": [
            {"title": "Ada", "text": "Ada owns Rex."},
            {"title": "Rex", "text": "Rex is fed by Bob."},
            {"title": "Carol", "text": "Carol met Ada and Rex."},
        ],
    },
)


class Rows(ScriptedEngine):
    """Writes `turns` in order and remembers each row it was given and what it wrote."""

    def __init__(self, turns: Sequence[str], renderer: NanoRenderer) -> None:
        super().__init__(
            lambda row, sampling, i: turns[i],
            tokenizer=renderer.tokenizer,
            encode=renderer.demo,
            end_id=renderer.stop_ids[0],
        )
        self.rows: list[list[int]] = []
        self.generated: list[list[int]] = []

    async def generate(self, token_ids: Any, sampling: Sampling) -> Generation:
        self.rows.append(np.asarray(token_ids).tolist())
        generation = await super().generate(token_ids, sampling)
        self.generated.append(generation.token_ids.tolist())
        return generation


@dataclass
class Stage:
    """Plays an environment with given turns, then rewards what was played."""

    renderer: NanoRenderer
    dogs: Task = DOGS
    engine: Rows | None = field(default=None)

    def text(self, token_ids: Sequence[int]) -> str:
        return self.renderer.tokenizer.decode(list(token_ids))

    async def play(
        self, make_env: Callable[[], Env], task: Task, *turns: str, demo: bool = False
    ) -> Trajectory:
        env = make_env()
        self.engine = Rows(turns, self.renderer)
        parts = Parts(
            make_env=make_env,
            engine=self.engine,
            renderer=self.renderer,
            protocol=resolve("protocol", env.protocol)(),
            limits=Limits(max_turns=32),
            sampling=Sampling(max_tokens=1),
            tool_slots=Slots(8),
        )
        return await run_episode(task, parts, Names(9, 0, task), demo=demo)

    async def rewarded(
        self,
        trajectory: Trajectory,
        rewards: Sequence[Any] = (),
        shapers: Sequence[Any] = (),
        judge: Any = None,
    ) -> Any:
        """`Shaped` of a group of one."""
        services = Services(episodes=None, judge=judge)  # type: ignore[arg-type]
        found = dict(trajectory.rewards)
        for reward in rewards:
            found |= await reward(trajectory, services)
        trajectory = replace(trajectory, rewards=found)
        group = Group(trajectory.task, (trajectory,))
        ctx = Ctx(step=0, total_steps=100, seed=0)
        return chain(shapers, group, summed(group), HistoryStore(), ctx)


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(folder)
    return Stage(NanoRenderer(load_tokenizer(folder)))
