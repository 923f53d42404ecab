"""The source without a curriculum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from agentrl.data.state import restored, stored
from agentrl.data.stream import Cursor, TaskStream
from agentrl.points import Ctx
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Task


@dataclass(frozen=True, slots=True)
class UniformState:
    """Where the stream is."""

    position: int = 0


@final
class Uniform:
    """Every task once an epoch, in the stream's order: what most papers do."""

    def __init__(self, *, stream: TaskStream) -> None:
        self._stream = stream
        self._cursor = Cursor(stream)

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """The next `n`, running on into the next epoch."""
        return self._cursor.take(n)

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Nothing: the order does not depend on what was learnt."""

    def state(self) -> Mapping[str, JsonValue]:
        """The position."""
        return stored(UniformState(self._cursor.position), self._stream)

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`. Raises UserError when it is of other tasks."""
        self._cursor.seek(restored(UniformState, state, self._stream).position)


__all__ = ["Uniform", "UniformState"]
