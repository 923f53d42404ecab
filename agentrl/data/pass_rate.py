"""Model-aware filtering by pass rate.

DemyAgent (2510.11701) measures 8 rollouts a task and drops what is always or never solved; OREAL
(2502.06781) repeats the rest by band. With `rates` the choice is made once, before training;
without, every task is measured when it is first drawn and left out later when it does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from pydantic import ConfigDict

from agentrl.data.rates import Bar, Difficulty, Rates, difficulty
from agentrl.data.state import restored, stored
from agentrl.data.stream import Cursor, FileStream, TaskStream, must_repeat
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Task


@dataclass(frozen=True, slots=True)
class Band:
    """Tasks of a pass rate up to `up_to`, above the band before, come `copies` times an epoch."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    up_to: float
    """Inclusive."""
    copies: int


@dataclass(slots=True)
class PassRateState:
    """Everything that decides the next draw."""

    position: int = 0
    seen: dict[str, float] = field(default_factory=dict[str, float])
    """Task id -> share correct when it was last drawn; empty with `rates`."""


@final
class PassRate:
    """Only tasks that the model solves sometimes."""

    def __init__(
        self,
        *,
        stream: TaskStream,
        rates: str | None = None,
        low: float = 0.0,
        high: float = 1.0,
        open: bool = True,
        only: tuple[Difficulty, ...] | None = None,
        bands: tuple[Band, ...] | None = None,
        unmeasured: bool = False,
        until: int | None = None,
        component: str = "env",
        above: float = 0.5,
    ) -> None:
        """Filter the stream.

        Args:
            stream: what is drawn from.
            rates: a trajectories.jsonl of `agentrl eval eval.samples=8`; None measures as it goes.
            low: lowest pass rate.
            high: highest pass rate.
            open: the bounds themselves are outside.
            only: the buckets to draw (`easy` from 0.75 on, `hard` up to 0.25, `medium`).
            bands: how often tasks come by pass rate; above the last band they do not come. Needs
                `rates` and tasks of a file.
            unmeasured: with `rates`, whether tasks it does not mention are drawn.
            until: first step whose accuracies no longer count, so that a model that learns does not
                run out of tasks; None follows the run to its end.
            component: the reward that says whether a trajectory is correct.
            above: it is when that is above this bar.

        Raises UserError on bounds out of order, bands without what they need, or a stream whose
        tasks never come again.
        """
        if not 0 <= low < high <= 1:
            raise UserError(f"pass_rate needs 0 <= low < high <= 1, not {low} and {high}")
        if rates is None:
            must_repeat(stream, "pass_rate without data.source.rates")
        self._rates = Rates(rates, Bar(component, above))
        self._low, self._high, self._open, self._only = low, high, open, only
        self._unmeasured = unmeasured or rates is None
        self._until = until
        self._stream = stream if bands is None else self._banded(stream, bands, rates)
        self._cursor = Cursor(self._stream)

    def _banded(self, stream: TaskStream, bands: Sequence[Band], rates: str | None) -> TaskStream:
        ascending = [band.up_to for band in bands] == sorted({band.up_to for band in bands})
        if rates is None or not isinstance(stream, FileStream) or not bands or not ascending:
            raise UserError(
                "pass_rate.bands needs data.path, data.source.rates and bands of rising up_to"
            )
        return stream.holding(lambda task: self._copies(task, bands))

    def _copies(self, task: Task, bands: Sequence[Band]) -> int:
        rate = self._rates.get(task.id)
        if rate is None:
            return int(self._unmeasured)
        fitting = [band.copies for band in bands if rate <= band.up_to]
        return fitting[0] if fitting and self._fits(rate) else 0

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """The next `n` tasks whose pass rate fits."""
        bounds = f"pass rate from {self._low} to {self._high}"
        return self._cursor.take(n, self._wanted, bounds)

    def _wanted(self, task: Task) -> bool:
        rate = self._rates.get(task.id)
        return self._unmeasured if rate is None else self._fits(rate)

    def _fits(self, rate: float) -> bool:
        at_bound = rate in (self._low, self._high)
        inside = self._low <= rate <= self._high and not (self._open and at_bound)
        return inside and (self._only is None or difficulty(rate) in self._only)

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Measure the tasks, when there is no file to read it from."""
        if self._until is None or ctx.step < self._until:
            self._rates.observe(groups)

    def state(self) -> Mapping[str, JsonValue]:
        """The place, and the rates measured."""
        return stored(PassRateState(self._cursor.position, dict(self._rates.seen)), self._stream)

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`. Raises UserError when it is of other tasks."""
        found = restored(PassRateState, state, self._stream)
        self._cursor.seek(found.position)
        self._rates.seen = dict(found.seen)


__all__ = ["Band", "PassRate", "PassRateState"]
