"""What an evaluation found, from its trajectories alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from agentrl.errors import RunFailed
from agentrl.evaluate.statistics import Interval, mean_of_tasks, pass_at_k, wilson
from agentrl.trajectory import Group, Trajectory
from agentrl.types import JsonValue


@dataclass(frozen=True, slots=True)
class EvalReport:
    """Rates are over trajectories that the world did not fail; `errors` counts the others."""

    tasks: int
    trajectories: int
    accuracy: Interval
    """Share of full scores: Wilson's interval for one sample a task, else over task means."""
    pass_at: Mapping[int, float]
    """k -> mean unbiased pass@k over tasks with at least k scored samples."""
    calls: float
    """Executed tool calls per episode."""
    productivity: float | None
    """Correct answers per executed call (OTC, arXiv 2504.14870); None without a call."""
    call_errors: float
    """Share of ledger lines, unreadable actions included, that hold an error."""
    truncated: float
    excluded: float
    """Share whose verdict could not be had; counted as wrong in `accuracy`."""
    errors: float
    """Share of all trajectories that the world failed."""
    length: float
    """Sampled tokens per episode."""
    families: Mapping[str, Interval]
    """Accuracy by `metadata['family']`, where tasks carry one."""

    def to_json(self) -> Mapping[str, JsonValue]:
        """Plain JSON values."""
        return {
            "tasks": self.tasks,
            "trajectories": self.trajectories,
            "accuracy": self.accuracy.value,
            "accuracy_low": self.accuracy.low,
            "accuracy_high": self.accuracy.high,
            "pass_at": {str(k): v for k, v in self.pass_at.items()},
            "calls": self.calls,
            "productivity": self.productivity,
            "call_errors": self.call_errors,
            "truncated": self.truncated,
            "excluded": self.excluded,
            "errors": self.errors,
            "length": self.length,
            "families": {name: list(value) for name, value in self.families.items()},
        }


def report(groups: Sequence[Group]) -> EvalReport:
    """Summarise. Raises RunFailed when the world failed every trajectory."""
    everyone = [t for group in groups for t in group.trajectories]
    scored = [t for t in everyone if t.error is None]
    if not scored:
        reason = everyone[0].error if everyone else "there was no task"
        raise RunFailed(f"no trajectory could be scored; the first failed with: {reason}")
    calls = sum(t.n_calls for t in scored)
    ledger = [call for t in scored for call in t.calls]
    return EvalReport(
        tasks=len(groups),
        trajectories=len(everyone),
        accuracy=accuracy(groups),
        pass_at=_pass_at(groups),
        calls=calls / len(scored),
        productivity=sum(t.correct for t in scored) / calls if calls else None,
        call_errors=fmean(c.error is not None for c in ledger) if ledger else 0.0,
        truncated=fmean(t.truncated for t in scored),
        excluded=fmean(t.excluded is not None for t in scored),
        errors=1 - len(scored) / len(everyone),
        length=fmean(t.n_sampled for t in scored),
        families=_families(groups),
    )


def accuracy(groups: Sequence[Group]) -> Interval:
    """Share of full scores over the scored trajectories of `groups`."""
    scored = [group.scored for group in groups if group.scored]
    if all(len(members) == 1 for members in scored):
        return wilson(sum(members[0].correct for members in scored), len(scored))
    return mean_of_tasks([_share(members) for members in scored])


def _share(members: Sequence[Trajectory]) -> float:
    return fmean(t.correct for t in members)


def _pass_at(groups: Sequence[Group]) -> Mapping[int, float]:
    counts = [(len(g.scored), sum(t.correct for t in g.scored)) for g in groups if g.scored]
    largest = max(n for n, _ in counts)
    ks = [2**i for i in range(largest.bit_length()) if 2**i <= largest]
    return {k: fmean(pass_at_k(n, c, k) for n, c in counts if n >= k) for k in ks}


def _families(groups: Sequence[Group]) -> Mapping[str, Interval]:
    named: dict[str, list[Group]] = {}
    for group in groups:
        family = group.task.metadata.get("family")
        if isinstance(family, str) and group.scored:
            named.setdefault(family, []).append(group)
    return {family: accuracy(members) for family, members in sorted(named.items())}
