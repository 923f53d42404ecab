"""Real engines that die, stop half-way through an update, or are asked for too much."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.chat.nano import NanoRenderer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.transformers import TransformersEngine
from agentrl.engine.weights import read_safetensors, safetensors_files
from agentrl.env import Action, StepInfo, StepResult
from agentrl.errors import EngineError
from agentrl.model_path import model_path
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.sample import Sample
from agentrl.trajectory import StopReason, Trajectory
from agentrl.types import Message, Task

pytestmark = pytest.mark.timeout(120)
CTX = Ctx(step=0, total_steps=1, seed=0)
CONTEXT = 256


@pytest.fixture
async def engine() -> AsyncIterator[TransformersEngine]:
    folder = model_path("nano")
    made = TransformersEngine(
        folder, tokenizer=load_tokenizer(folder), max_batch=8, max_context=CONTEXT
    )
    await made.open()
    yield made
    await made.close()
    assert not [t for t in threading.enumerate() if t.name == "engine-transformers"]


@pytest.fixture
def real(world: Any) -> Any:
    """The same world in the tokens of the embedded model."""
    world.renderer = NanoRenderer(load_tokenizer(model_path("nano")))
    return world


def endless(world: Any) -> Callable[[], Any]:
    """An environment that never ends an episode by itself."""

    async def step(action: Action) -> StepResult:
        return StepResult((Message("user", "on"),), 0.0, False, False, StepInfo())

    return world.bare(step=step)


async def test_an_engine_that_dies_in_the_middle_fails_what_it_held_and_nothing_else(
    real: Any, engine: TransformersEngine
):
    """What had finished is kept; what ran is failed by name, at once; nobody waits."""
    finished: list[Trajectory] = []
    runner = Episodes(
        real.parts(engine, endless(real), max_turns=2, turn_tokens=8, episode_s=None),
        seed=0, retries=1, finished=finished.append,
    )  # fmt: skip
    async with asyncio.timeout(60):
        await Sample(group_size=2).collect(Task("early", "Q"), Services(runner), CTX)
        backend: Any = engine._thread.backend
        steps, step = 0, backend.step

        def dying() -> Any:
            nonlocal steps
            steps += 1
            if steps == 5:
                raise MemoryError("the card fell off")
            return step()

        backend.step = dying
        group = await Sample(group_size=6).collect(Task("late", "Q"), Services(runner), CTX)
    told = "EngineError: engine transformers died: MemoryError: the card fell off"
    assert {t.error for t in group.trajectories} == {told}
    assert [t.error for t in finished[:2]] == [None, None]
    assert len(finished) == 8
    statistics = runner.statistics()
    assert (statistics.finished, statistics.failed, statistics.retried) == (8, 6, 6)
    assert statistics.episodes.borrowed == statistics.engine.borrowed == 0


async def test_an_update_that_stops_half_way_keeps_nobody_waiting(
    real: Any, engine: TransformersEngine
):
    """Nothing may be generated between `begin_update` and `finish_update`: the deadline ends it."""
    buckets = [dict(b) for b in read_safetensors(safetensors_files(Path(model_path("nano"))))]
    await engine.begin_update(1)
    await engine.put(dict(list(buckets[0].items())[:1]))
    async with asyncio.timeout(60):
        done = await real.play(engine, endless(real), generate_s=0.3, episode_s=None)
        assert (done.stop, done.error) == (
            StopReason.ERROR, "EngineError: no generation within 0.3 s",
        )  # fmt: skip
        with pytest.raises(EngineError, match="never arrived"):
            await engine.finish_update()
        done = await real.play(engine, endless(real), episode_s=None)
    assert done.error is not None
    assert done.error.startswith("EngineError")


async def test_a_prompt_longer_than_the_context_is_a_named_ending_of_its_own(
    real: Any, engine: TransformersEngine
):
    """Its siblings in the batch are played; nothing is trained of it, nothing crashes."""
    runner = Episodes(real.parts(engine, endless(real), max_turns=1, turn_tokens=8), seed=0)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = [
            group.create_task(runner.run(Task(str(i), "Q" * n), 0, CTX))
            for i, n in enumerate((1, 10 * CONTEXT, 1))
        ]
    short, long, other = (task.result() for task in running)
    assert (long.stop, long.n_sampled, long.truncated) == (StopReason.CONTEXT, 0, True)
    assert not long.trainable
    assert short.n_sampled == other.n_sampled == 8


async def test_cancelled_episodes_leave_nothing_in_the_engine(
    real: Any, engine: TransformersEngine
):
    """Ctrl-C, as asyncio delivers it: every request is aborted, the engine is free again."""
    runner = Episodes(real.parts(engine, endless(real), max_turns=99, turn_tokens=200), seed=0)
    playing = asyncio.ensure_future(Sample(group_size=8).collect(real.task, Services(runner), CTX))
    async with asyncio.timeout(60):
        while engine.statistics().running < 8:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        while engine.statistics().running:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)
        done = await real.play(engine, endless(real), max_turns=1, turn_tokens=4)
    assert done.n_sampled == 4
    assert real.log.closed == 9
    assert not torch.is_inference_mode_enabled()
