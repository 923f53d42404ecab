"""One-shot RLVR (2504.20571): one task, over and over.

The task is the one whose accuracy varied most over the steps of an earlier run (population
variance of its accuracies). Duplicates fill the batch; `Ctx.repeat` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import pvariance
from typing import final

from agentrl.data.rates import Bar, read_verdicts, shares, traces, verdicts_of
from agentrl.data.state import restored, stored
from agentrl.data.stream import PATIENCE, Cursor, TaskStream, must_repeat
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Task


@dataclass(slots=True)
class OneShotState:
    """Everything that decides the next draw."""

    position: int = 0
    """In the stream; it stays where the warm-up ended."""
    drawn: int = 0
    """Tasks drawn since the choice."""
    seen: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Task id -> accuracies so far, while warming up."""
    chosen: list[str] = field(default_factory=list[str])
    """Ids of the tasks that are drawn; empty while warming up."""


@final
class OneShot:
    """Draws one task, or the best few in turn, for ever."""

    def __init__(
        self,
        *,
        stream: TaskStream,
        task: str | None = None,
        history: str | None = None,
        warmup_steps: int | None = None,
        n_tasks: int = 1,
        component: str = "env",
        above: float = 0.5,
    ) -> None:
        """Choose the task in one of three ways.

        Args:
            stream: where the task is looked up.
            task: its id.
            history: a trajectories.jsonl of an earlier `agentrl train`: its most varied task.
            warmup_steps: draw every task alike so long, then take this run's most varied one.
            n_tasks: take the best so many (few-shot RLVR) in turn.
            component: the reward that says whether a trajectory is correct.
            above: it is when that is above this bar.

        Raises UserError unless exactly one way is given, when the task is not in the stream, or
        when a warm-up would never see a task twice.
        """
        if sum(way is not None for way in (task, history, warmup_steps)) != 1:
            raise UserError(
                "one_shot needs one of data.source.task=ID, data.source.history=trajectories.jsonl "
                "and data.source.warmup_steps=N"
            )
        if n_tasks < 1 or (warmup_steps is not None and warmup_steps < 2):
            raise UserError(
                "one_shot needs n_tasks >= 1 and warmup_steps >= 2: one value varies not"
            )
        if warmup_steps is not None:
            must_repeat(stream, "one_shot.warmup_steps")
        self._stream, self._n_tasks, self._bar = stream, n_tasks, Bar(component, above)
        self._warmup_steps = warmup_steps or 0
        self._cursor = Cursor(stream)
        self._state = OneShotState()
        self._chosen: tuple[Task, ...] = ()
        if task is not None:
            self._choose([task])
        elif history is not None:
            self._choose(most_varied(traces(read_verdicts(history, self._bar)), n_tasks))

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """The chosen tasks in turn; while warming up, the stream's next."""
        if not self._chosen and ctx.step < self._warmup_steps:
            return self._cursor.take(n)
        if not self._chosen:
            self._choose(most_varied(self._state.seen, self._n_tasks))
        first = self._state.drawn
        self._state.drawn += n
        return [self._chosen[i % len(self._chosen)] for i in range(first, first + n)]

    def _choose(self, ids: Sequence[str]) -> None:
        self._chosen = self._found(ids)
        self._state = OneShotState(chosen=list(ids), position=self._cursor.position)

    def _found(self, ids: Sequence[str]) -> tuple[Task, ...]:
        reach = max(self._cursor.position, self._stream.epoch or PATIENCE)
        found = {t.id: t for t in islice(self._stream.starting_at(0), reach) if t.id in ids}
        missing = [task for task in ids if task not in found]
        if missing:
            raise UserError(
                f"one_shot: task {missing[0]} is not among the first {reach} tasks; give the data "
                "and seed it came from"
            )
        return tuple(found[task] for task in ids)

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Remember the accuracies while warming up."""
        if self._chosen:
            return
        for task, share in shares(verdicts_of(groups, self._bar)).items():
            self._state.seen.setdefault(task, []).append(share)

    def state(self) -> Mapping[str, JsonValue]:
        """The place, and the tasks chosen or what they will be chosen by."""
        self._state.position = self._cursor.position
        return stored(self._state, self._stream)

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`. Raises UserError when it is of other tasks."""
        self._state = restored(OneShotState, state, self._stream)
        self._cursor.seek(self._state.position)
        self._chosen = self._found(self._state.chosen)


def most_varied(accuracies: Mapping[str, Sequence[float]], n: int) -> list[str]:
    """The `n` ids of largest population variance, ties by id. Raises UserError when none varies."""
    varied = {task: pvariance(seen) for task, seen in accuracies.items()}
    ranked = sorted(varied, key=lambda task: (-varied[task], task))[:n]
    if len(ranked) < n or not varied[ranked[-1]]:
        raise UserError(
            f"one_shot: fewer than {n} of {len(varied)} tasks changed their accuracy between steps; "
            "watch more epochs"
        )
    return ranked


__all__ = ["OneShot", "OneShotState", "most_varied"]
