"""How full an engine is, as a limiter reads it."""

from __future__ import annotations

import asyncio

from agentrl.engine.base import EngineStatistics, Sampling
from agentrl.engine.transformers import TransformersEngine


def test_an_engine_that_cannot_tell_says_so():
    assert EngineStatistics(1, 2, 3, 4, 0.5).kv_used is None


async def test_slots_in_use_are_the_pressure_and_found_prefixes_are_counted(folders, helpers):
    """Three of four slots run; then a 64-token row comes again, of which 63 are found."""
    engine = TransformersEngine(folders["qwen2"], max_batch=4)
    await engine.open()
    assert engine.statistics().kv_used == 0.0
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        for seed in range(3):
            group.create_task(engine.generate(helpers.prompt(20, seed), Sampling(200, seed=seed)))
        while engine.statistics().running < 3:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)
        assert engine.statistics().kv_used == 0.75
    assert engine.statistics().cached_tokens == 0
    row = helpers.prompt(64, 9)
    for seed in range(2):
        await engine.generate(row, Sampling(1, seed=seed))
    assert engine.statistics().cached_tokens == 63
    assert engine.statistics().preemptions == 0
    await engine.close()
