"""Learner -> engine: an atomic update, then a probe that both must score alike (law 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.engine.base import Engine
from agentrl.engine.probe import check_sync
from agentrl.errors import EngineError, RunFailed
from agentrl.seeds import derive
from agentrl.train.learner import Learner
from agentrl.transcript import Int32Array, ids_array

PROBE_TOKENS = 24

SYNC_S = 600.0
"""Deadline of handing over one version."""


@dataclass(frozen=True, slots=True)
class Sync:
    """Carries weights of one learner to one engine."""

    learner: Learner
    engine: Engine
    probe: Int32Array
    """A fixed row of ids, shape [t]."""
    dtype: str
    """Arithmetic of both sides; decides how far they may differ."""
    remedy: str = "resume from the last checkpoint"
    """What to do when the engine did not take the weights, as the end of a sentence."""

    async def __call__(self) -> float:
        """Update the engine; returns the probe's largest difference in nats.

        Generations under way go on under the new weights. Raises SyncMismatch when the difference
        exceeds the tolerance, RunFailed when the engine did not take the weights, or not in time.
        After a failure half-way the engine is closed: requests that wait on it fail, none hangs.
        """
        whole = False
        try:
            async with asyncio.timeout(SYNC_S):
                await self._update()
                whole = True
                return await self._probed()
        except (TimeoutError, EngineError) as error:
            why = error if isinstance(error, EngineError) else f"nothing within {SYNC_S:g} s"
            raise RunFailed(
                f"the engine did not take version {self.learner.version} ({why}); {self.remedy}"
            ) from error
        finally:
            if not whole:
                await asyncio.shield(self.engine.close())

    async def _update(self) -> None:
        await self.engine.begin_update(self.learner.version)
        for bucket in self.learner.export():
            await self.engine.put(bucket)
        await self.engine.finish_update()

    async def _probed(self) -> float:
        found = await check_sync(
            self.engine, [self.probe], [self.learner.score(self.probe)],
            version=self.learner.version, dtype=self.dtype,
        )  # fmt: skip
        return found.max_difference


def probe_ids(vocab_size: int, prompt: Sequence[int], seed: int) -> Int32Array:
    """A real prompt followed by arbitrary ids, so that every layer and the head are exercised."""
    rng = np.random.default_rng(derive(seed, "probe"))
    return ids_array([*list(prompt)[:PROBE_TOKENS], *rng.integers(0, vocab_size, PROBE_TOKENS)])
