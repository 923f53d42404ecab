"""What a stretch of rollouts says about its bottleneck: who idled, and who waited for what."""

from __future__ import annotations

from typing import TypeAlias

from agentrl.context import LimiterStatistics
from agentrl.engine.base import EngineStatistics
from agentrl.rollout.loop import RolloutStatistics

Readings: TypeAlias = "tuple[RolloutStatistics, EngineStatistics]"
"""A runner and its engine at one moment."""

FLOW_METRICS = frozenset(
    {"engine_idle", "engine_places", "set_back", "wait_episode_s", "wait_engine_s", "wait_tool_s"}
)
"""Names of `flow_metrics` that a rerun does not repeat."""


def flow_metrics(
    before: Readings,
    after: Readings,
    wall_s: float,
) -> dict[str, float]:
    """Metrics of the time between two readings, `wall_s` apart.

    `engine_idle`: share of it in which the engine computed nothing. `wait_*_s`: mean seconds that
    whoever was admitted had waited for a place as an episode, in the engine, for a tool call.
    `engine_places`: generations at once that the engine's cache allows now. `set_back`: requests
    computed twice for want of cache. `retried`: fresh attempts after failures of the world.
    """
    first, engine_first = before
    last, engine_last = after
    busy_s = engine_last.busy_s - engine_first.busy_s
    return {
        "engine_idle": max(0.0, 1.0 - busy_s / wall_s) if wall_s > 0 else 0.0,
        "engine_places": float(last.engine.capacity),
        "set_back": float(engine_last.preemptions - engine_first.preemptions),
        "retried": float(last.retried - first.retried),
        "wait_episode_s": _mean_wait(first.episodes, last.episodes),
        "wait_engine_s": _mean_wait(first.engine, last.engine),
        "wait_tool_s": _mean_wait(first.tools, last.tools),
    }


def _mean_wait(first: LimiterStatistics, last: LimiterStatistics) -> float:
    admitted = last.admitted - first.admitted
    return (last.total_wait_s - first.total_wait_s) / admitted if admitted else 0.0


__all__ = ["FLOW_METRICS", "Readings", "flow_metrics"]
