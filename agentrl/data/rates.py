"""How often tasks were solved: from stored trajectories, or as a run goes.

A trajectory is correct when its component is above a bar. Trajectories that the world failed count
nowhere. Shares are exact fractions of whole counts, so that order of arrival cannot matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from agentrl.data.rows import Row, read_rows
from agentrl.errors import UserError
from agentrl.trajectory import Group
from agentrl.trajectory_json import SCHEMA_VERSION

Difficulty: TypeAlias = Literal["solved", "easy", "medium", "hard", "failed"]
"""`solved`: always right; `failed`: never."""


class Verdict(NamedTuple):
    """One scored trajectory."""

    task: str
    step: int
    correct: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """What counts as correct."""

    component: str = "env"
    above: float = 0.5

    def cleared(self, rewards: Mapping[str, float]) -> bool:
        """Whether rewards by component count as correct."""
        return rewards.get(self.component, 0.0) > self.above


def difficulty(rate: float, *, easy: float = 0.75, hard: float = 0.25) -> Difficulty:
    """The bucket of a pass rate (DemyAgent, 2510.11701: 8 rollouts, 0 and 1 are dropped)."""
    if rate <= 0:
        return "failed"
    if rate >= 1:
        return "solved"
    return "easy" if rate >= easy else "hard" if rate <= hard else "medium"


def shares(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Task id -> share correct of everything given, ids sorted."""
    counts: dict[str, tuple[int, int]] = {}
    for task, _, correct in verdicts:
        right, n = counts.get(task, (0, 0))
        counts[task] = (right + correct, n + 1)
    return {task: right / n for task, (right, n) in sorted(counts.items())}


def traces(verdicts: Iterable[Verdict]) -> dict[str, list[float]]:
    """Task id -> its accuracies, one a step that drew it, in the order of steps."""
    by_step: dict[int, list[Verdict]] = {}
    for verdict in verdicts:
        by_step.setdefault(verdict.step, []).append(verdict)
    found: dict[str, list[float]] = {}
    for _, of_step in sorted(by_step.items()):
        for task, share in shares(of_step).items():
            found.setdefault(task, []).append(share)
    return found


def verdicts_of(groups: Sequence[Group], bar: Bar) -> list[Verdict]:
    """What a step's groups say, those gates dropped included."""
    return [
        Verdict(group.task.id, group.step, bar.cleared(trajectory.rewards))
        for group in groups
        for trajectory in group.scored
    ]


def read_verdicts(path: str, bar: Bar) -> list[Verdict]:
    """What a `trajectories.jsonl` of `agentrl eval` or `agentrl train` (or its folder) says.

    Raises UserError that names the file and the line.
    """
    file = Path(path)
    rows = read_rows(file / "trajectories.jsonl" if file.is_dir() else file)
    found = [_verdict(row, bar) for row in rows]
    kept = [verdict for verdict in found if verdict is not None]
    if not kept:
        raise UserError(f"{path} holds no scored trajectory; give one of a finished evaluation")
    return kept


def _verdict(row: Row, bar: Bar) -> Verdict | None:
    values = cast(Mapping[str, Any], row.values)
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{row.where}: not a trajectory of schema_version {SCHEMA_VERSION} (it says {version}); "
            "give a trajectories.jsonl of `agentrl eval`"
        )
    try:
        if values["error"] is not None:
            return None
        step = int(values["uid"].split("/", 1)[0])
        return Verdict(values["task"]["id"], step, bar.cleared(values["rewards"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{row.where}: a broken trajectory ({error}); drop the line") from None


class Rates:
    """Pass rates that a run may look up: a file's, or the last it saw itself."""

    def __init__(self, path: str | None, bar: Bar) -> None:
        """Reads `path`; None follows the run. Raises UserError on what cannot be read."""
        self._bar = bar
        self._stored = None if path is None else shares(read_verdicts(path, bar))
        self.seen: dict[str, float] = {}
        """Task id -> share correct in the last step that drew it; empty with a file."""

    def get(self, task: str) -> float | None:
        """The rate, or None when it was never measured."""
        return (self.seen if self._stored is None else self._stored).get(task)

    def observe(self, groups: Sequence[Group]) -> None:
        """Take in a step, when following the run."""
        if self._stored is None:
            self.seen.update(shares(verdicts_of(groups, self._bar)))


__all__ = [
    "Bar",
    "Difficulty",
    "Rates",
    "Verdict",
    "difficulty",
    "read_verdicts",
    "shares",
    "traces",
    "verdicts_of",
]
