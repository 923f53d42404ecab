"""How many trees grow at once: never more than the sandboxes can hold whole.

A path of a tree keeps its sandbox while it waits for another path of the tree, which may still need
one. Were all sandboxes held by paths that wait, none would come free.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

from agentrl.errors import UserError
from agentrl.rollout.slots import Slots
from agentrl.sandbox import SandboxPool


class Grove:
    """Places for the trees of one plan."""

    def __init__(self, size: int) -> None:
        """size: paths of a tree, each with a sandbox at worst."""
        self._size = size
        self._pool: SandboxPool | None = None
        self._slots: Slots | None = None

    def place(self, pool: SandboxPool | None) -> AbstractAsyncContextManager[float]:
        """Hold a place for one tree; entering gives the seconds waited.

        Raises UserError when the pool cannot hold one tree.
        """
        capacity = 0 if pool is None else pool.statistics().capacity
        if not capacity:
            return nullcontext(0.0)
        if capacity < self._size:
            raise UserError(
                f"a tree of {self._size} trajectories needs as many sandboxes and there are "
                f"{capacity}; set sandbox.max_sessions to {self._size} or more, better "
                "train.tasks_per_step times that, or lower rollout.group_size"
            )
        if self._slots is None or pool is not self._pool:
            self._pool, self._slots = pool, Slots(capacity // self._size, name="place for a tree")
        return self._slots.slot()


__all__ = ["Grove"]
