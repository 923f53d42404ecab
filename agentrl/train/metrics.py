"""Names and arithmetic of what a step reports, and the sinks it is reported to.

Reports use the environment's raw score, never a shaped reward. Errored trajectories are counted
and left out of every mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Protocol

from agentrl.algo.gate_spread import reward_std
from agentrl.errors import RunFailed
from agentrl.rollout.flow_metrics import FLOW_METRICS
from agentrl.train.spent import spent
from agentrl.trajectory import Group, StopReason, Trajectory

SCHEMA_VERSION = 1

TIME_METRICS = FLOW_METRICS | frozenset(
    {"time_s", "rollout_s", "learner_s", "sync_s", "eval_s", "tokens_per_s", "tool_s", "queue_s"}
)
"""Metrics that a rerun does not repeat: exact resume excludes them."""


class Sink(Protocol):
    """Somewhere a run reports to."""

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """Before the first step; `summary` names what is run."""
        ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """After a step; steps count from 0."""
        ...

    def note(self, text: str) -> None:
        """One line for people."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class JsonLines:
    """`metrics.jsonl` of a run folder: one object a step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """Nothing to write: the folder already says what is run."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line."""
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        append_line(
            self._path, json.dumps({"schema_version": SCHEMA_VERSION, "step": step} | finite)
        )

    def note(self, text: str) -> None:
        """Notes are for people."""

    def close(self) -> None:
        """Every line is already on disk."""


def append_line(path: Path, line: str) -> None:
    """Append one whole line. Raises RunFailed on a full disk, leaving no partial line behind."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        with suppress(OSError), path.open("r+b") as file:
            file.truncate(size)
        raise RunFailed(
            f"cannot write {path}: {error.strerror}; free some space and resume"
        ) from error


def keep_until(path: Path, step: int) -> None:
    """Drop lines of steps >= `step`, and a half-written last line: what a resumed run repeats.

    Raises RunFailed when the shortened file cannot be written; the old one stays then.
    """
    if path.exists():
        _keep(path, [line for line in path.read_bytes().split(b"\n") if _before(line, step)])


def keep_first(path: Path, n: int) -> None:
    """Drop all but the first `n` lines; raises as `keep_until` does.

    Groups that are played beside the learner are written by a later step than the one in their uids.
    """
    if path.exists():
        _keep(path, path.read_bytes().split(b"\n")[:-1][:n])


def _keep(path: Path, lines: Sequence[bytes]) -> None:
    kept = [line + b"\n" for line in lines]
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(b"".join(kept))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFailed(
            f"cannot write {path}: {error.strerror}; free some space and resume"
        ) from error


def _before(line: bytes, step: int) -> bool:
    """Whether it is a whole line of an earlier step."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    at = record["step"] if "step" in record else int(record["uid"].split("/", 1)[0])
    return at < step


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Means over all trajectories of a step that the world did not fail, and what they cost."""
    everyone = [t for group in groups for t in group.trajectories]
    scored = [t for t in everyone if t.error is None]
    if not scored:
        return {"errors": 1.0 if everyone else 0.0}
    calls = sum(t.n_calls for t in scored)
    correct = sum(t.correct for t in scored)
    metrics = {
        "reward": fmean(t.rewards["env"] for t in scored),
        "accuracy": correct / len(scored),
        "calls": calls / len(scored),
        "productivity": correct / calls if calls else math.nan,
        "call_errors": _share([c.error is not None for t in scored for c in t.calls]),
        "turns": fmean(t.n_turns for t in scored),
        "rows": fmean(len(t.rows) for t in scored),
        "length": fmean(t.n_sampled for t in scored),
        "truncated": _share([t.truncated for t in scored]),
        "excluded": _share([t.excluded is not None for t in scored]),
        "errors": 1.0 - len(scored) / len(everyone),
        "zero_variance_groups": _share([_flat(group) for group in groups]),
        "reward_std": _spread(groups),
        "tool_s": fmean(t.timings.tool_s for t in scored),
        "queue_s": fmean(t.timings.queue_s for t in scored),
    }
    for name, members in (
        ("length_correct", [t for t in scored if t.correct]),
        ("length_wrong", [t for t in scored if not t.correct]),
    ):
        metrics[name] = fmean(t.n_sampled for t in members) if members else math.nan
    return metrics | spent(groups) | _components(scored) | _stops(scored)


def _components(scored: Sequence[Trajectory]) -> dict[str, float]:
    """Means over the trajectories that have the component; numbered series are left to the record."""
    names = sorted({name for t in scored for name in t.rewards} - {"env"})
    return {
        f"reward/{name}": fmean(t.rewards[name] for t in scored if name in t.rewards)
        for name in names
        if not name.rpartition("/")[2].isdigit()
    }


def _stops(scored: Sequence[Trajectory]) -> dict[str, float]:
    return {
        f"stop/{reason}": _share([t.stop is reason for t in scored])
        for reason in StopReason
        if any(t.stop is reason for t in scored)
    }


def _spread(groups: Sequence[Group]) -> float:
    """Mean deviation of the groups' rewards, as gates see it: without members that stand aside."""
    counted = [group.counted for group in groups if group.counted.scored]
    return fmean(reward_std(group) for group in counted) if counted else 0.0


def _flat(group: Group) -> bool:
    return len({t.rewards["env"] for t in group.scored}) == 1


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
