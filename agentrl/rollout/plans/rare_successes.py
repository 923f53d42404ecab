"""Right answers of rarely solved questions, kept for when they come again (DeepSearch, 2509.25454)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.trajectory import Group, Timings, Trajectory
from agentrl.trajectory_json import from_line, to_line
from agentrl.types import JsonValue, Task

REPLAYED = "/replayed"
"""Ends the uid of a success of an earlier step."""


class RareSuccesses:
    """By question: the right trajectories of the last group whose share of right ones was rare."""

    def __init__(self, rare: float, capacity: int) -> None:
        """rare: the largest such share. capacity: questions, the oldest forgotten first."""
        if capacity < 0 or not 0 <= rare < 1:
            raise UserError("deepsearch needs capacity of at least 0 and rare in [0, 1)")
        self._rare, self._capacity = rare, capacity
        self._kept: dict[str, tuple[Trajectory, ...]] = {}

    def of(self, task: Task) -> Sequence[Trajectory]:
        """Those of one question, in sibling order."""
        return self._kept.get(task.id, ())

    def observe(self, groups: Sequence[Group]) -> None:
        """A step's groups; what was replayed in them is no news."""
        for group in groups:
            fresh = [t for t in group.scored if not t.uid.endswith(REPLAYED)]
            right = [t for t in fresh if t.correct]
            if not right:
                continue
            self._kept.pop(group.task.id, None)
            if len(right) <= self._rare * len(fresh):
                self._kept[group.task.id] = tuple(right)
        while len(self._kept) > self._capacity:
            del self._kept[next(iter(self._kept))]

    def state(self) -> Mapping[str, JsonValue]:
        """Trajectories as the lines of a run folder, by question, oldest first."""
        return {task: [to_line(t) for t in kept] for task, kept in self._kept.items()}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`."""
        self._kept = {
            task: tuple(from_line(line) for line in cast(Iterable[str], lines))
            for task, lines in state.items()
        }


def replayed(trajectory: Trajectory, sibling: int, ctx: Ctx) -> Trajectory:
    """A kept success as a member of this step's group: unshaped, and nothing was run for it."""
    again = f"+{ctx.repeat}" if ctx.repeat else ""
    return replace(
        trajectory,
        uid=f"{ctx.step}/{trajectory.task.id}/{sibling}{again}{REPLAYED}",
        sibling=sibling,
        rewards={"env": trajectory.rewards["env"]},
        reward=None,
        weight=1.0,
        parent=None,
        fork_tokens=None,
        n_executed=0,
        timings=Timings(),
    )


__all__ = ["REPLAYED", "RareSuccesses", "replayed"]
