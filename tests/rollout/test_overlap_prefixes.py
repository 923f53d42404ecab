"""More episodes in flight than the engine computes together: what they computed is found again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentrl.chat.nano import NanoRenderer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.transformers import TransformersEngine
from agentrl.env import Action, StepInfo, StepResult
from agentrl.model_path import model_path
from agentrl.points import Ctx
from agentrl.rollout.loop import Episodes
from agentrl.types import Message, Task

pytestmark = pytest.mark.timeout(120)
CTX = Ctx(step=0, total_steps=1, seed=0)


async def test_episodes_under_way_find_their_prefixes_in_the_cache(world: Any):
    """24 episodes of 3 turns, 24 in flight, 4 at a time in the engine, whose stash holds 8.

    First come first served, an episode is back only after 20 others had their turn, and nothing of
    it is left. The one that began first goes first: at most 8 are under way at any time.
    """
    world.renderer = NanoRenderer(load_tokenizer(model_path("nano")))

    async def step(action: Action) -> StepResult:
        await asyncio.sleep(0.001)
        return StepResult((Message("user", "on"),), 0.0, False, False, StepInfo())

    engine = TransformersEngine(model_path("nano"), max_batch=8, max_context=256)
    await engine.open()
    parts = world.parts(
        engine, world.bare(step=step), max_turns=3, protocol=Unstopped(), episode_s=None
    )
    runner = Episodes(parts, seed=0, in_flight=24, adaptive=False)
    runner.parts.engine_slots.resize(4)  # what the adaptive one falls to, within a second

    async def one(i: int) -> None:
        async with runner.live(Task(str(i), f"{i} " + "Q" * 60), 0, CTX) as episode:
            while await episode.write(max_tokens=12) is not None:
                await episode.act()

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for i in range(24):
            group.create_task(one(i))
    found = engine.statistics()
    await engine.close()
    returned = found.cached_tokens + found.prefill_tokens - 24 * 66
    assert found.cached_tokens > 0.3 * returned


class Unstopped:
    """A protocol that calls nothing, so that a turn ends by its length."""

    name, stops = "unstopped", ()

    def tool_prompt(self, tools: object) -> str:
        return ""

    def parse(self, token_ids: object, text: str, *, turn: int) -> Action:
        return Action(text)

    def present(self, observation: Any, *, text: str = "", ended: bool = False) -> Any:
        from agentrl.chat.base import Messages

        return Messages(tuple(observation))
