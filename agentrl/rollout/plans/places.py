"""Who may take how many of a task's places in its group, decided by turn and sibling, not by arrival."""

from __future__ import annotations

import asyncio


class Places:
    """The free sibling numbers of one group, given out in the order (turn, sibling).

    Every path of a tree passes every turn here once. One that wants nothing goes on at once; one
    that wants places waits until all paths before it in that order have passed or ended, so what it
    gets depends on no clock. Paths of other tasks never wait for it. The path that comes first in
    the order waits for nobody, so a wait always ends.
    """

    def __init__(self, paths: range, size: int) -> None:
        """paths: the siblings that start. size: places of the group; those behind `paths` are free."""
        self._passed = dict.fromkeys(paths, -1)
        self._next = paths.stop
        self._size = size
        self._moved = asyncio.Event()

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return self._size - self._next

    async def all_past(self, turn: int) -> None:
        """Wait until every path has passed `turn` or ended."""
        while any(passed < turn for passed in self._passed.values()):
            await self._moved.wait()

    async def claim(self, turn: int, sibling: int, wanted: int = 0) -> range:
        """Pass `turn`, taking up to `wanted` places: their sibling numbers, which start there too."""
        while wanted and self.free and self._others_before(turn, sibling):
            await self._moved.wait()
        taken = range(self._next, self._next + min(wanted, self.free))
        self._next = taken.stop
        self._passed |= dict.fromkeys((sibling, *taken), turn)
        self._tell()
        return taken

    def leave(self, sibling: int) -> None:
        """The path has ended and takes nothing more. Idempotent."""
        self._passed.pop(sibling, None)
        self._tell()

    def _others_before(self, turn: int, sibling: int) -> bool:
        """Whether a path may still take places before this one."""
        return any(
            (passed + 1, other) < (turn, sibling)
            for other, passed in self._passed.items()
            if other != sibling
        )

    def _tell(self) -> None:
        """Wake who waits; whoever still has to waits for the next move."""
        self._moved.set()
        self._moved = asyncio.Event()


__all__ = ["Places"]
