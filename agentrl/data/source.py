"""Task sources without a curriculum: generated streams and shuffled files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from random import Random
from typing import final

from agentrl.env import TaskGenerator
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.seeds import derive
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Task


@final
class GeneratedTasks:
    """The tasks an environment generates, in its order."""

    def __init__(self, env: TaskGenerator, split: str, seed: int) -> None:
        """Raises what `env.tasks` raises on an unknown split."""
        self._env, self._split, self._seed = env, split, seed
        self._drawn = 0
        self._stream = self._restarted()

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """The next `n` of the stream. Raises UserError when it ends."""
        tasks = list(islice(self._stream, n))
        if len(tasks) < n:
            raise UserError(
                f"the environment generated only {self._drawn + len(tasks)} tasks of the split "
                f"{self._split!r}; its `tasks` must be endless"
            )
        self._drawn += n
        return tasks

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Nothing: the order does not depend on what was learnt."""

    def state(self) -> Mapping[str, JsonValue]:
        """How many tasks were drawn, and of which stream."""
        return {"drawn": self._drawn, "split": self._split, "seed": self._seed}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Draw the stream again up to `state`. Raises UserError when it is another stream's."""
        drawn = state.get("drawn")
        if (state.get("split"), state.get("seed")) != (self._split, self._seed):
            raise UserError(
                f"the checkpoint drew split {state.get('split')!r} with seed {state.get('seed')}, "
                f"this run {self._split!r} with {self._seed}; resume with the same seed and split"
            )
        if not isinstance(drawn, int) or drawn < 0:
            raise UserError("the checkpoint's task source has no count `drawn`; start a new run")
        self._stream = self._restarted()
        self._drawn = sum(1 for _ in islice(self._stream, drawn))

    def _restarted(self) -> Iterator[Task]:
        return iter(self._env.tasks(self._split, seed=self._seed))


@final
class FileTasks:
    """A list of tasks, epoch after epoch; every epoch has an order of its own when shuffled."""

    def __init__(self, tasks: Sequence[Task], seed: int, *, shuffle: bool = True) -> None:
        """Raises UserError on an empty list or two tasks with one id."""
        if not tasks:
            raise UserError("there is no task to draw; give data with at least one row")
        if len({task.id for task in tasks}) != len(tasks):
            raise UserError("two tasks share an id; every task needs its own")
        self._tasks = tuple(tasks)
        self._seed, self._shuffle = seed, shuffle
        self._epoch = self._position = 0
        self._order_P = self._order(0)

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """The next `n`, running on into the next epoch."""
        chosen: list[Task] = []
        while len(chosen) < n:
            if self._position == len(self._tasks):
                self._epoch, self._position = self._epoch + 1, 0
                self._order_P = self._order(self._epoch)
            chosen.append(self._tasks[self._order_P[self._position]])
            self._position += 1
        return chosen

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Nothing: the order does not depend on what was learnt."""

    def state(self) -> Mapping[str, JsonValue]:
        """Epoch and position, and a digest of what they index."""
        return {"epoch": self._epoch, "position": self._position, "digest": self._digest()}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`. Raises UserError when the tasks, their order or the seed differ."""
        epoch, position = state.get("epoch"), state.get("position")
        if state.get("digest") != self._digest():
            raise UserError(
                "the checkpoint was made with other tasks, seed or shuffling; "
                "resume with the same data.* and seed"
            )
        if not isinstance(epoch, int) or not isinstance(position, int):
            raise UserError("the checkpoint's task source has no epoch; start a new run")
        self._epoch, self._position = epoch, position
        self._order_P = self._order(epoch)

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self._tasks)))
        if self._shuffle:
            Random(derive("order", self._seed, epoch)).shuffle(order)
        return order

    def _digest(self) -> str:
        text = "\x1f".join((str(self._seed), str(self._shuffle), *(t.id for t in self._tasks)))
        return blake2b(text.encode(), digest_size=8).hexdigest()
