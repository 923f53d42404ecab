"""`async` over vLLM in process: updates in flight, and each token's logprob that of its own weights."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.config import RunConfig
from agentrl.train import loop
from agentrl.train.assemble import assemble
from agentrl.train.folder import RunFolder, create
from agentrl.train.torch_learner import TorchLearner
from agentrl.transcript import Origin

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's imports warn on their own account
]


async def test_generations_outlive_updates(
    dice: Callable[..., RunConfig], tmp_path: Path, tiny: Path, notes: Any
):
    """vLLM preempts what runs and computes its keys and values anew under the new weights."""
    config = dice(
        train={"mode": "async", "steps": 6}, env={"pause_s": 0.02},
        engine={"name": "vllm", "kv_cache_mb": 32},
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    create(folder, config, "agentrl train")
    run, state = assemble(config, folder, [notes], None)
    weights: dict[int, Any] = {}
    rows: list[Any] = []
    sync, keep, learner = run.sync, run.keep, run.learner
    assert isinstance(learner, TorchLearner)

    async def keeping() -> float:
        weights[learner.version] = learner.state()
        return await sync()

    def told(trajectory: Any) -> None:
        rows.extend(trajectory.rows)
        keep(trajectory)

    async with asyncio.timeout(240):
        await loop.train(
            replace(run, sync=keeping, keep=told),
            state,
        )
    assert all(m["probe_gap"] < 1e-4 for _, m in notes.steps)
    assert all(m["staleness/max"] <= 2 for _, m in notes.steps)
    mixed = [
        row
        for row in rows
        if len({s.version for s in row.segments if s.origin is Origin.MODEL}) > 1
    ]
    assert mixed
    again = TorchLearner(tiny)
    for row in mixed[:6]:
        for version in sorted(set(row.versions[row.versions >= 0].tolist())):
            again.restore(weights[version])
            own = row.versions == version
            difference = np.abs(again.score(row.token_ids)[own] - row.logprobs[own])
            assert difference.max() < 1e-4
