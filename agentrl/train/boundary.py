"""A step boundary on disk: what a checkpoint holds beside the learner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from agentrl.config import RunConfig
from agentrl.history import HistoryStore
from agentrl.points import Patch
from agentrl.train import checkpoint, replay, tickets
from agentrl.train.folder import RunFolder, fingerprint
from agentrl.train.inflight import Finished
from agentrl.train.learner import Learner
from agentrl.train.state import State
from agentrl.trajectory_json import task_json
from agentrl.types import JsonValue, Task


def save(
    config: RunConfig, folder: RunFolder, learner: Learner, state: State, *, best: bool
) -> None:
    """Write a checkpoint of the boundary. Raises RunFailed when it cannot be written."""
    trainer: Mapping[str, JsonValue] = {
        "history": state.history.to_json(),
        "source": state.source,
        "best": state.best if state.best >= 0 else None,
        "past": [
            {k: v if math.isfinite(v) else str(v) for k, v in metrics.items()}
            for metrics in state.past
        ],
        "patch": asdict(state.patch),
        "failed": [task_json(task) for task in state.failed],
        "replay": replay.to_json(state.replay),
        "plan": state.plan,
        "left": tickets.to_json(state.left),
        "played": _played_json(state.played),
        "written": state.written,
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
        past=tuple(
            {name: float(value) for name, value in metrics.items()}
            for metrics in cast(Sequence[Mapping[str, float | str]], stored["past"])
        ),
        patch=Patch(**cast(dict[str, Any], stored["patch"])),
        failed=tuple(Task(**task) for task in cast(Sequence[dict[str, Any]], stored["failed"])),
        replay=replay.from_json(stored["replay"]),
        plan=cast(Mapping[str, JsonValue], stored["plan"]),
        left=tickets.from_json(stored["left"]),
        played=_played(stored["played"]),
        written=cast(int, stored["written"]),
        saved=step,
    )


def _played_json(played: Sequence[Finished]) -> list[JsonValue]:
    groups = replay.to_json([finished.group for finished in played])
    of = tickets.to_json([finished.ticket for finished in played])
    return [{"ticket": t, "group": g} for t, g in zip(of, groups, strict=True)]


def _played(data: JsonValue) -> tuple[Finished, ...]:
    entries = cast(Sequence[Mapping[str, JsonValue]], data)
    of = tickets.from_json([entry["ticket"] for entry in entries])
    groups = replay.from_json([entry["group"] for entry in entries])
    return tuple(Finished(t, g) for t, g in zip(of, groups, strict=True))
