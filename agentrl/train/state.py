"""A step boundary in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentrl.history import HistoryStore
from agentrl.points import NO_PATCH, Patch
from agentrl.train.inflight import Finished
from agentrl.train.tickets import Ticket
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Task


@dataclass(slots=True)
class State:
    """What a step boundary is, beside the learner: everything a checkpoint must hold."""

    step: int = 0
    """Steps finished."""
    history: HistoryStore = field(default_factory=HistoryStore)
    source: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """The task source's state at the boundary."""
    best: float = -math.inf
    """Best evaluated accuracy so far."""
    past: tuple[Mapping[str, float], ...] = ()
    """Metrics of the last `PAST` steps, oldest first."""
    patch: Patch = NO_PATCH
    """What schedules have changed so far."""
    failed: tuple[Task, ...] = ()
    """Tasks diverted to `sft`, whose demonstrations are still to be learnt; oldest first."""
    replay: tuple[Group, ...] = ()
    """Groups kept to fill later batches."""
    plan: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """What a plan that learns from the steps has learnt."""
    left: tuple[Ticket, ...] = ()
    """Tasks drawn from the source and not trained on yet."""
    played: tuple[Finished, ...] = ()
    """Groups of such tasks, or of tasks that will be drawn next, that were played to their end."""
    written: int = 0
    """Trajectories written to the run folder so far."""
    saved: int = -1
    """Step of the newest checkpoint."""
    whole: bool = True
    """False while the learner is ahead of `step`: what no checkpoint may hold."""


__all__ = ["State"]
