"""Tasks drawn from the source and not trained on yet: what a checkpoint must not lose or double.

A source moves on when it is asked, so a task that was drawn before a boundary and is trained on
after it belongs into the boundary. A resumed run plays these tasks again, under the same names and
seeds, before it asks the source for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast, final

from agentrl.errors import UserError
from agentrl.points import Ctx, TaskSource
from agentrl.trajectory_json import task_json
from agentrl.types import JsonValue, Task

Key: TypeAlias = "tuple[int, str, int]"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One group to be played: its task, and what its uids and seeds are made of."""

    step: int
    """The step it was drawn for."""
    task: Task
    repeat: int = 0
    """How often that step had drawn the task before."""

    @property
    def key(self) -> Key:
        """Unique in the run."""
        return self.step, self.task.id, self.repeat

    def ctx(self, now: Ctx) -> Ctx:
        """What its plan is handed when it is started now."""
        return replace(now, step=self.step, repeat=self.repeat)


@final
class Tickets:
    """Hands out tickets and remembers those whose groups have not been trained on."""

    def __init__(self, left: Iterable[Ticket] = ()) -> None:
        """`left` are those of the boundary that the run goes on from."""
        self._open = {ticket.key: ticket for ticket in left}
        self._repeats: dict[tuple[int, str], int] = {}
        for ticket in self._open.values():
            self._count(ticket)

    def draw(self, source: TaskSource, n: int, ctx: Ctx) -> list[Ticket]:
        """`n` new ones for the step of `ctx`; a task that comes again in a step is told apart."""
        # Whatever was drawn for a step long past has been counted; its names cannot come again.
        self._repeats = {k: v for k, v in self._repeats.items() if k[0] >= ctx.step}
        drawn: list[Ticket] = []
        for task in source.next(n, ctx):
            ticket = Ticket(ctx.step, task, self._repeats.get((ctx.step, task.id), 0))
            self._count(ticket)
            self._open[ticket.key] = ticket
            drawn.append(ticket)
        return drawn

    def close(self, tickets: Iterable[Ticket]) -> None:
        """The learner has these tickets' groups."""
        for ticket in tickets:
            del self._open[ticket.key]

    @property
    def left(self) -> tuple[Ticket, ...]:
        """Those not closed, in the order in which they were drawn."""
        return tuple(self._open.values())

    def _count(self, ticket: Ticket) -> None:
        place = ticket.step, ticket.task.id
        self._repeats[place] = max(self._repeats.get(place, 0), ticket.repeat + 1)


def to_json(tickets: Sequence[Ticket]) -> list[JsonValue]:
    """For the checkpoint."""
    return [
        {"step": ticket.step, "task": task_json(ticket.task), "repeat": ticket.repeat}
        for ticket in tickets
    ]


def from_json(data: JsonValue) -> tuple[Ticket, ...]:
    """What `to_json` gave. Raises UserError on anything else."""
    try:
        return tuple(
            Ticket(int(item["step"]), Task(**item["task"]), int(item["repeat"]))
            for item in cast(Sequence[Mapping[str, Any]], data)
        )
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"the checkpoint's drawn tasks cannot be read ({error}); start a new run"
        ) from None


__all__ = ["Ticket", "Tickets", "from_json", "to_json"]
