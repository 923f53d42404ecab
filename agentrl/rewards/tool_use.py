"""Counts of tool calls, and what a turn's successes are worth.

Three counts are kept apart: attempted (everything the model tried, unreadable ones included), executed
(OTC's m) and successful. Tool efficiency is successful / executed and does not exist without a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.points import Services
from agentrl.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Reward function: `tools/attempted|executed|successful` and `tools/efficiency`, measurements.

    With a weight also the component `tool_use` = success_weight successful / executed +
    count_weight successful: VerlTool's turn reward (2509.01055) at 0.3 and 0.05.
    """

    success_weight: float = 0.0
    count_weight: float = 0.0
    component: str = "tool_use"

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Without an executed call there is no `tools/efficiency`: None is not 0."""
        executed = trajectory.n_calls
        successful = sum(call.error is None for call in trajectory.calls)
        scores = {
            "tools/attempted": float(len(trajectory.calls)),
            "tools/executed": float(executed),
            "tools/successful": float(successful),
        }
        efficiency = successful / executed if executed else None
        if efficiency is not None:
            scores["tools/efficiency"] = efficiency
        if self.success_weight or self.count_weight:
            gain = self.success_weight * (efficiency or 0.0) + self.count_weight * successful
            scores[self.component] = gain
        return scores


__all__ = ["ToolUse"]
