"""What a step's rollouts cost in calls and tokens, and whether the calls go where they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Transcript


def spent(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of a step; the first two are means over the trajectories that the world did not fail.

    `calls_attempted`, `calls_successful`: what the model tried to call, unreadable actions included,
    and what came back without a fault; like `calls`, the executed ones, they count a branch's whole
    history. `calls_hard`: `calls` in the groups that solved at most half, left out without any.
    `n_executed`: calls really run in the step, those that branches inherit only where they ran.
    `n_generated`: tokens the policy wrote, a shared prefix once. `branches`: trajectories that left
    another one behind its prompt.
    """
    everyone = [t for group in groups for t in group.trajectories]
    scored = [t for t in everyone if t.error is None]
    if not scored:
        return {}
    by_uid = {t.uid: t for t in everyone}
    shared = [_shared(t, by_uid) for t in everyone]
    hard = [t.n_calls for group in groups if _is_hard(group) for t in group.scored]
    return {
        "calls_attempted": fmean(len(t.calls) for t in scored),
        "calls_successful": fmean(sum(c.error is None for c in t.calls) for t in scored),
        **({"calls_hard": fmean(hard)} if hard else {}),
        "n_executed": float(sum(t.n_executed for t in everyone)),
        "n_generated": float(sum(t.n_sampled for t in everyone) - sum(shared)),
        "branches": float(sum(n > 0 for n in shared)),
    }


def _is_hard(group: Group) -> bool:
    return 2 * sum(t.correct for t in group.scored) <= len(group.scored)


def _shared(trajectory: Trajectory, by_uid: Mapping[str, Trajectory]) -> int:
    """Tokens it did not have to write because the one it was branched from had."""
    parent = None if trajectory.parent is None else by_uid.get(trajectory.parent)
    if parent is None:
        return 0
    shared = 0
    for row, above in zip(trajectory.rows, parent.rows, strict=False):
        n = _in_common(row, above)
        if n == len(row) == len(above) and row is not trajectory.rows[-1]:
            shared += row.n_sampled  # left for a fresh row before the branching
            continue
        return shared + int(row.mask[: min(n, trajectory.fork_tokens or 0)].sum())
    return shared


def _in_common(row: Transcript, above: Transcript) -> int:
    """Leading ids that are equal."""
    n = min(len(row), len(above))
    differ = np.flatnonzero(row.token_ids[:n] != above.token_ids[:n])
    return int(differ[0]) if len(differ) else n


__all__ = ["spent"]
