"""Learner -> engine: an atomic update, then a probe that both must score alike (law 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.engine.base import Engine
from agentrl.engine.probe import check_sync
from agentrl.seeds import derive
from agentrl.train.learner import Learner
from agentrl.transcript import Int32Array, ids_array

PROBE_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Sync:
    """Carries weights of one learner to one engine."""

    learner: Learner
    engine: Engine
    probe: Int32Array
    """A fixed row of ids, shape [t]."""
    dtype: str
    """Arithmetic of both sides; decides how far they may differ."""

    async def __call__(self) -> float:
        """Update the engine; returns the probe's largest difference in nats.

        Raises SyncMismatch when it exceeds the tolerance, EngineError when the update failed.
        """
        await self.engine.begin_update(self.learner.version)
        for bucket in self.learner.export():
            await self.engine.put(bucket)
        await self.engine.finish_update()
        found = await check_sync(
            self.engine, [self.probe], [self.learner.score(self.probe)],
            version=self.learner.version, dtype=self.dtype,
        )  # fmt: skip
        return found.max_difference


def probe_ids(vocab_size: int, prompt: Sequence[int], seed: int) -> Int32Array:
    """A real prompt followed by arbitrary ids, so that every layer and the head are exercised."""
    rng = np.random.default_rng(derive(seed, "probe"))
    return ids_array([*list(prompt)[:PROBE_TOKENS], *rng.integers(0, vocab_size, PROBE_TOKENS)])
