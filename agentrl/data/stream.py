"""Endless, deterministic streams of tasks, and places in them.

A stream is what a source draws from: position i always holds the same task, so that a source's
whole state is a few numbers. Curricula skip what they do not want; they never reorder a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, count, islice, repeat
from random import Random
from typing import Protocol, final, runtime_checkable

from agentrl.env import TaskGenerator
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Task

LOOK = 1000
"""Tasks of a generated stream that are looked at to learn what it is made of."""
PATIENCE = 10_000
"""Unwanted tasks in a row after which a generated stream is taken to hold no wanted one."""


@runtime_checkable
class TaskStream(Protocol):
    """An endless stream of tasks, addressed by position."""

    @property
    def digest(self) -> str:
        """Tells streams apart: what a checkpoint's positions are positions of."""
        ...

    @property
    def epoch(self) -> int | None:
        """Positions of one pass over the tasks; None when there is no such thing."""
        ...

    def starting_at(self, position: int) -> Iterator[Task]:
        """The tasks from `position` (0 is the first) on, without end."""
        ...

    def look(self) -> Sequence[Task]:
        """Tasks that show what the stream is made of: a file's all, else the first `LOOK`."""
        ...


@final
class GeneratedStream:
    """The tasks an environment generates, in its order."""

    def __init__(self, env: TaskGenerator, split: str, seed: int) -> None:
        """Reading raises what `env.tasks` raises on an unknown split."""
        self._env, self._split, self._seed = env, split, seed

    @property
    def digest(self) -> str:
        """Split and seed."""
        return f"{self._split}/{self._seed}"

    @property
    def epoch(self) -> int | None:
        """There are no epochs."""
        return None

    def starting_at(self, position: int) -> Iterator[Task]:
        """Generates the stream anew up to `position`. Raises UserError where it ends."""
        found = 0
        for found, task in enumerate(self._env.tasks(self._split, seed=self._seed), 1):
            if found > position:
                yield task
        raise UserError(
            f"the environment generated only {found} tasks of the split {self._split!r}; its "
            "`tasks` must be endless"
        )

    def look(self) -> Sequence[Task]:
        """The first `LOOK` tasks."""
        return tuple(islice(self._env.tasks(self._split, seed=self._seed), LOOK))


@final
class FileStream:
    """A list of tasks, epoch after epoch; every epoch has an order of its own when shuffled."""

    def __init__(
        self,
        tasks: Sequence[Task],
        seed: int,
        *,
        shuffle: bool = True,
        copies: Callable[[Task], int] | None = None,
    ) -> None:
        """`copies` says how often an epoch holds a task; None: once.

        Raises UserError on an empty list or two tasks with one id.
        """
        if len({task.id for task in tasks}) != len(tasks):
            raise UserError("two tasks share an id; every task needs its own")
        times = [1 if copies is None else copies(task) for task in tasks]
        self._tasks = tuple(tasks)
        self._held_P = list(chain.from_iterable(repeat(i, n) for i, n in enumerate(times)))
        self._seed, self._shuffle = seed, shuffle
        if not self._held_P:
            raise UserError("there is no task to draw; give data with at least one row")

    @property
    def digest(self) -> str:
        """Seed, shuffling and which tasks an epoch holds."""
        ids = (self._tasks[i].id for i in self._held_P)
        text = "\x1f".join((str(self._seed), str(self._shuffle), *ids))
        return blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def epoch(self) -> int | None:
        """How many positions a pass has."""
        return len(self._held_P)

    def starting_at(self, position: int) -> Iterator[Task]:
        """From the middle of its epoch on, running on into the next."""
        first, offset = divmod(position, len(self._held_P))
        for epoch in count(first):
            for place in self._order(epoch)[offset if epoch == first else 0 :]:
                yield self._tasks[place]

    def look(self) -> Sequence[Task]:
        """Every task once, in the file's order."""
        return self._tasks

    def holding(self, copies: Callable[[Task], int]) -> FileStream:
        """The same tasks, each `copies(task)` times an epoch. Raises UserError when none is left."""
        return FileStream(self._tasks, self._seed, shuffle=self._shuffle, copies=copies)

    def _order(self, epoch: int) -> list[int]:
        order = list(self._held_P)
        if self._shuffle:
            Random(derive("order", self._seed, epoch)).shuffle(order)
        return order


def must_repeat(stream: TaskStream, why: str) -> None:
    """Raise UserError, naming what needs it, when a stream's tasks never come again."""
    if stream.epoch is None:
        raise UserError(
            f"{why} needs tasks that come again; give data.path=tasks.jsonl, or data.limit=N for N "
            "generated tasks"
        )


@final
class Cursor:
    """A place in a stream, moved by drawing."""

    def __init__(self, stream: TaskStream, position: int = 0) -> None:
        self._stream = stream
        self._position = position
        self._ahead: Iterator[Task] | None = None

    @property
    def position(self) -> int:
        """Of the next task; skipped ones count."""
        return self._position

    def seek(self, position: int) -> None:
        """Go to a position."""
        self._position, self._ahead = position, None

    def to_next_epoch(self) -> None:
        """Go to the start of an epoch, forwards; stay where there are no epochs."""
        epoch = self._stream.epoch
        if epoch is not None and self._position % epoch:
            self.seek(self._position + epoch - self._position % epoch)

    def take(
        self, n: int, wanted: Callable[[Task], bool] | None = None, called: str = ""
    ) -> list[Task]:
        """The next `n` tasks, those that are not `wanted` skipped.

        Raises UserError, which says what they are `called`, when a whole epoch (or `PATIENCE`
        generated tasks) holds none.
        """
        chosen: list[Task] = []
        # First in one epoch and last in the next, a task is nearly two epochs away.
        epoch = self._stream.epoch
        patience = PATIENCE if epoch is None else 2 * epoch - 1
        skipped = 0
        while len(chosen) < n:
            task = self._next()
            if wanted is None or wanted(task):
                chosen.append(task)
                skipped = 0
                continue
            skipped += 1
            if skipped >= patience:
                raise UserError(
                    f"none of {skipped} tasks in a row is wanted ({called}); widen data.source or "
                    "give other data"
                )
        return chosen

    def _next(self) -> Task:
        if self._ahead is None:
            self._ahead = self._stream.starting_at(self._position)
        task = next(self._ahead)
        self._position += 1
        return task


__all__ = [
    "LOOK",
    "PATIENCE",
    "Cursor",
    "FileStream",
    "GeneratedStream",
    "TaskStream",
    "must_repeat",
]
