"""What each judgement should have been: the labels that ReSeek's reward reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.points import Services
from agentrl.trajectory import Trajectory
from agentrl_envs.search_qa.evidence import supports


@dataclass(frozen=True, slots=True)
class ReSeekIdeal:
    """Reward function: `reseek/ideal/<k>`, 1 iff what turn k + 1 judges holds a page it needs.

    ReSeek (2510.00568) asks a reranker how near an observation is to the gold answer, which calls the
    first step of a chain bad evidence. A generated world knows which pages a question needs.
    """

    tool: str = "search"
    """Whose results are evidence."""

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """A measurement for every turn but the first, once something was found."""
        labels: dict[str, float] = {}
        for turn in range(1, trajectory.n_turns):
            shown = [
                call.content
                for call in trajectory.calls
                if call.turn < turn and call.name == self.tool and call.error is None
            ]
            if shown:
                labels[f"reseek/ideal/{turn - 1}"] = float(supports(trajectory.task, shown[-1]))
        return labels


__all__ = ["ReSeekIdeal"]
