"""Finished trajectories of a step that is not over."""

from __future__ import annotations

from typing import final

from agentrl.trajectory import Trajectory


@final
class Unwritten:
    """Hears of each episode as it ends, so that a step that fails leaves what it had finished.

    Such trajectories have no shaped reward yet; a resumed run plays the step anew in their place.
    """

    def __init__(self) -> None:
        self._arrived: dict[str, Trajectory] = {}

    def __call__(self, trajectory: Trajectory) -> None:
        """An episode of the present step has finished; what the world failed is nothing to keep."""
        if trajectory.error is None:
            self._arrived[trajectory.uid] = trajectory

    def taken(self) -> tuple[Trajectory, ...]:
        """All since the last call, in order of arrival."""
        arrived = tuple(self._arrived.values())
        self._arrived.clear()
        return arrived


__all__ = ["Unwritten"]
