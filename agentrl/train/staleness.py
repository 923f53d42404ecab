"""How old the trained tokens are, and what is too old to train on.

Age is counted in policy versions: that of the learner when the update begins less that of the
weights which sampled the token. A trajectory is as old as its oldest sampled token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Origin, Transcript

STALE = "stale"
"""The reason under which what is too old is counted."""


def oldest_version(trajectory: Trajectory) -> int | None:
    """Of its sampled tokens; None when the engine sampled none."""
    found = [version for row in trajectory.rows for version in _versions(row)]
    return min(found, default=None)


def fresh_only(group: Group, at_least: int) -> Group:
    """The group with the trajectories older than version `at_least` excluded from training.

    They stay in the group's statistics: age is no property of what was written.
    """
    return replace(
        group,
        trajectories=tuple(
            replace(t, excluded=t.excluded or STALE) if _is_older(t, at_least) else t
            for t in group.trajectories
        ),
    )


def all_stale(group: Group) -> bool:
    """No trajectory is left to train on because all of them are too old."""
    return bool(group.scored) and all(t.excluded == STALE for t in group.scored)


def staleness(groups: Sequence[Group], version: int) -> dict[str, float]:
    """Metrics of a batch that a learner of this version is about to train on.

    Means and maximum of the age over trained tokens, and the share of rows that were sampled under
    more than one version: partial rollouts that outlived a weight update.
    """
    everyone = [t for group in groups for t in group.trajectories]
    rows = [row for t in everyone if t.trainable for row in t.rows]
    sampled = [versions[versions >= 0] for versions in (row.versions for row in rows)]
    ages = version - np.concatenate([np.zeros(0, np.int32), *sampled])
    spans = [len(set(_versions(row))) for row in rows]
    return {
        "staleness/mean": float(ages.mean()) if len(ages) else 0.0,
        "staleness/max": float(ages.max(initial=0)),
        "staleness/mixed_rows": sum(n > 1 for n in spans) / max(sum(n > 0 for n in spans), 1),
        "staleness/excluded": float(sum(t.excluded == STALE for t in everyone)),
    }


def _is_older(trajectory: Trajectory, at_least: int) -> bool:
    oldest = oldest_version(trajectory)
    return oldest is not None and oldest < at_least


def _versions(row: Transcript) -> list[int]:
    return [s.version for s in row.segments if s.origin is Origin.MODEL and s.version is not None]


__all__ = ["STALE", "all_stale", "fresh_only", "oldest_version", "staleness"]
