"""A step boundary on disk: what a checkpoint holds beside the learner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from agentrl.config import RunConfig
from agentrl.history import HistoryStore
from agentrl.train import checkpoint
from agentrl.train.folder import RunFolder, fingerprint
from agentrl.train.learner import Learner
from agentrl.train.loop import State
from agentrl.types import JsonValue


def save(
    config: RunConfig, folder: RunFolder, learner: Learner, state: State, *, best: bool
) -> None:
    """Write a checkpoint of the boundary. Raises RunFailed when it cannot be written."""
    trainer: Mapping[str, JsonValue] = {
        "history": state.history.to_json(),
        "source": state.source,
        "best": state.best if state.best >= 0 else None,
        "metrics": {k: None if math.isnan(v) else v for k, v in state.metrics.items()},
    }
    checkpoint.save(
        folder.checkpoints,
        state.step,
        learner,
        trainer,
        config_hash=fingerprint(config),
        keep=config.train.keep,
        best=best,
    )


def load(path: Path, learner: Learner, config_hash: str) -> State:
    """The boundary `save` wrote, with the learner put back. Raises UserError on another config."""
    step, stored = checkpoint.load(path, learner, config_hash=config_hash)
    best = stored["best"]
    return State(
        step=step,
        history=HistoryStore.from_json(cast(Mapping[str, JsonValue], stored["history"])),
        source=cast(Mapping[str, JsonValue], stored["source"]),
        best=float(best) if isinstance(best, float | int) else State().best,
        metrics={
            k: math.nan if v is None else v
            for k, v in cast(Mapping[str, float | None], stored["metrics"]).items()
        },
        saved=step,
    )
