"""Law 8: a sync that did not take stops the run with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.engine.base import Sampling
from agentrl.engine.probe import check_sync
from agentrl.engine.scripted import ScriptedEngine
from agentrl.engine.transformers import TransformersEngine
from agentrl.errors import SyncMismatch, UserError


async def sync(engine, model, version: int) -> None:
    await engine.begin_update(version)
    await engine.put(model.state_dict())
    await engine.finish_update()


async def test_a_good_sync_passes_and_another_models_weights_do_not(folders, models, helpers):
    engine = TransformersEngine(folders["qwen2"])
    await engine.open()
    learner = helpers.fresh(folders["qwen2"], 8)
    probe = [helpers.prompt(n, n) for n in (2, 50)]

    def expected(row):
        picked = helpers.picked(helpers.logprobs(learner, row[:1], row[1:]), row[1:])
        return np.concatenate([np.zeros(1, np.float32), picked])

    await sync(engine, learner, 1)
    check = await check_sync(engine, probe, expected, version=1)
    assert (check.version, check.tolerance) == (1, 1e-4)
    assert 0 < check.mean_difference <= check.max_difference < 1e-5
    await check_sync(engine, probe, [expected(row) for row in probe])
    await sync(engine, models["qwen2"], 2)
    with pytest.raises(SyncMismatch, match="differ by"):
        await check_sync(engine, probe, expected)
    with pytest.raises(SyncMismatch, match="version 2 after the sync of version 3"):
        await check_sync(engine, probe, expected, version=3)
    await engine.close()


async def test_the_message_names_row_token_and_both_values():
    engine = ScriptedEngine(lambda *_: [1], logprob=-0.5)
    good, bad = np.full(4, -0.5, np.float32), np.array([0, -0.5, -0.75, -0.6], np.float32)
    row = np.arange(4, dtype=np.int32)
    with pytest.raises(SyncMismatch, match=r"0\.25 nats at token 2 of probe row 1 \(-0\.500000"):
        await check_sync(engine, [row, row], [good, bad])
    assert (await check_sync(engine, [row, row], [good, bad], tolerance=0.3)).max_difference == 0.25
    low = ScriptedEngine(lambda *_: [1], logprob=-10.0)
    near, far = np.array([[0, -10, -10, -10.25], [0, -10, -10, -10.5]], np.float32)
    assert (await check_sync(low, [row], [near], dtype="bfloat16")).max_difference == 0.25
    with pytest.raises(SyncMismatch, match=r"0\.5 nats at token 3 .*allowed 0\.26\)"):
        await check_sync(low, [row], [far], dtype="bfloat16")
    bad[2] = np.nan
    with pytest.raises(SyncMismatch, match="token 2"):
        await check_sync(engine, [row], [bad], dtype="bfloat16")
    with pytest.raises(UserError, match="two tokens"):
        await check_sync(engine, [row[:1]], [good])
    assert (await engine.score(row, Sampling(max_tokens=1)))[0] == 0.0
