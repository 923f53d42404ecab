"""Weights reach the engine whole, and the probe notices when they did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.engine.scripted import ScriptedEngine
from agentrl.engine.transformers import TransformersEngine
from agentrl.errors import SyncMismatch
from agentrl.train.sync import PROBE_TOKENS, Sync, probe_ids
from agentrl.train.torch_learner import TorchLearner
from agentrl.transcript import floats_array, ids_array

PROBE = probe_ids(288, list(b"3*4=?"), seed=1)


def test_a_probe_is_a_prompt_and_arbitrary_ids():
    assert PROBE[:5].tolist() == list(b"3*4=?")
    assert len(PROBE) == 5 + PROBE_TOKENS
    assert 0 <= PROBE.min() <= PROBE.max() < 288
    assert probe_ids(288, list(b"3*4=?"), seed=1).tolist() == PROBE.tolist()
    assert probe_ids(288, list(b"3*4=?"), seed=2).tolist() != PROBE.tolist()
    assert len(probe_ids(288, [1] * 500, seed=1)) == 2 * PROBE_TOKENS


@pytest.fixture
def learner(tiny: Path) -> TorchLearner:
    return TorchLearner(tiny, lr=0.1)


def nudge(learner: TorchLearner) -> None:
    """One supervised step, so that the learner is ahead of the engine."""
    from agentrl.algo.batch import demo_batch
    from agentrl.transcript import Origin, Segment, Transcript

    row = Transcript().append(Segment(Origin.PROMPT, [1, 2]), Segment(Origin.DEMO, [3, 4]))
    learner.sft_update(demo_batch([row], pad_id=0))


async def test_a_sync_brings_the_new_weights(tiny: Path, learner: TorchLearner):
    engine = TransformersEngine(tiny, max_batch=2, max_context=64)
    await engine.open()
    try:
        nudge(learner)
        gap = await Sync(learner, engine, PROBE, "float32")()
    finally:
        await engine.close()
    assert gap < 1e-4
    assert engine.version == learner.version == 1


async def test_a_parameter_left_behind_stops_the_run(tiny: Path, learner: TorchLearner):
    """The sync of everything but one matrix's new values."""
    engine = TransformersEngine(tiny, max_batch=2, max_context=64)
    await engine.open()
    old = {k: v.clone() for bucket in learner.export() for k, v in bucket.items()}
    nudge(learner)

    class Forgetful:
        version = learner.version

        @staticmethod
        def export() -> Any:
            for bucket in learner.export():
                yield {k: old[k] if "down_proj" in k else v for k, v in bucket.items()}

        score = learner.score

    try:
        with pytest.raises(SyncMismatch, match="after the sync, engine and learner differ by"):
            await Sync(Forgetful(), engine, PROBE, "float32")()
    finally:
        await engine.close()


async def test_the_largest_difference_is_returned():
    """A scripted engine says log-probability 0 everywhere; the learner -5e-5 at one token."""

    class Learner:
        version = 7

        def export(self) -> Any:
            return iter(())

        def score(self, token_ids: Any) -> Any:
            scores = np.zeros(len(token_ids), np.float32)
            scores[3] = -5e-5
            return floats_array(scores)

    engine = ScriptedEngine(lambda *_: "")
    gap = await Sync(Learner(), engine, ids_array([1, 2, 3, 4, 5]), "float32")()
    assert gap == pytest.approx(5e-5)
    assert engine.version == 7
