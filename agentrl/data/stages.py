"""Staged curricula: which tasks a step may draw changes at fixed steps.

FastCuRL (2503.17287) stages by the length of the question, AceReason (2505.16400) by pass rate,
Light-R1 (2503.10460) and difficulty-aware staging (2504.00829) by level or pass rate, ORZ
(2503.24290) ends on the hard prompts alone. What else changes with a stage (the length of the
answers, the temperature) is the business of schedules with the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from pydantic import ConfigDict

from agentrl.data.rates import Bar, Rates
from agentrl.data.state import restored, stored
from agentrl.data.stream import Cursor, TaskStream, must_repeat
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Task


@dataclass(frozen=True, slots=True)
class Stage:
    """Which tasks are wanted, and for how long. Bounds are inclusive; None leaves a side open."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    steps: int | None = None
    """Length of the stage; only the last may leave it out."""
    min_chars: int | None = None
    """Shortest question, in characters."""
    max_chars: int | None = None
    values: tuple[str | int | float, ...] | None = None
    """Wanted values of the metadata that the source's `key` names."""
    min_rate: float | None = None
    """Lowest pass rate."""
    max_rate: float | None = None
    open: bool = False
    """True: the pass-rate bounds themselves are outside."""
    unmeasured: bool = True
    """Whether tasks without a known pass rate are wanted."""
    drop_solved: bool = False
    """Leave out tasks that were always solved when this run last drew them (AceReason)."""

    @property
    def by_rate(self) -> bool:
        """It looks at pass rates."""
        return self.min_rate is not None or self.max_rate is not None

    def wants(self, task: Task, key: str) -> bool:
        """Whether question and metadata fit."""
        n = len(task.question)
        if n < (self.min_chars or 0) or (self.max_chars is not None and n > self.max_chars):
            return False
        # A level is 3 in one file and "3" in the next.
        return self.values is None or str(task.metadata.get(key)) in map(str, self.values)

    def wants_rate(self, rate: float | None) -> bool:
        """Whether a pass rate fits."""
        if not self.by_rate:
            return True
        if rate is None:
            return self.unmeasured
        low, high = self.min_rate, self.max_rate
        if self.open:
            return (low is None or rate > low) and (high is None or rate < high)
        return (low is None or rate >= low) and (high is None or rate <= high)


@dataclass(slots=True)
class StagesState:
    """Everything that decides the next draw."""

    stage: int = 0
    position: int = 0
    seen: dict[str, float] = field(default_factory=dict[str, float])
    """Task id -> share correct when it was last drawn; empty when no stage asks."""


@final
class Stages:
    """One stage of tasks after another; each begins with an epoch of its own."""

    def __init__(
        self,
        *,
        stream: TaskStream,
        stages: tuple[Stage, ...],
        key: str = "level",
        rates: str | None = None,
        until: int | None = None,
        component: str = "env",
        above: float = 0.5,
    ) -> None:
        """Check the stages.

        Args:
            stream: what is drawn from.
            stages: in order; the last goes on to the end of the run.
            key: the metadata that `values` are of.
            rates: a trajectories.jsonl of `agentrl eval`; None takes a task's accuracy when this
                run last drew it.
            until: first step whose accuracies no longer count, so that the choice is fixed; None
                follows the run to its end.
            component: the reward that says whether a trajectory is correct.
            above: it is when that is above this bar.

        Raises UserError when there is no stage, or one before the last has no length.
        """
        if not stages or any((s.steps or 0) < 1 for s in stages[:-1]):
            raise UserError(
                "stages needs stages=[{steps: N, ...}, ..., {...}]; only the last is endless"
            )
        bar = Bar(component, above)
        self._stream, self._stages, self._key = stream, stages, key
        self._rates = Rates(rates, bar)
        self._live = self._rates if rates is None else Rates(None, bar)
        self._watches = any(s.drop_solved or (s.by_rate and rates is None) for s in stages)
        self._until = until
        self._cursor = Cursor(stream)
        self._stage = 0

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """The next `n` tasks that the step's stage wants."""
        now = stage_at(self._stages, ctx.step)
        if now != self._stage:
            self._stage = now
            self._cursor.to_next_epoch()
        stage = self._stages[now]
        return self._cursor.take(n, lambda t: self._wanted(stage, t), f"stage {now}: {stage}")

    def _wanted(self, stage: Stage, task: Task) -> bool:
        if stage.drop_solved and self._live.get(task.id) == 1.0:
            return False
        return stage.wants(task, self._key) and stage.wants_rate(self._rates.get(task.id))

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Remember how the tasks went, when a stage asks."""
        if self._watches and (self._until is None or ctx.step < self._until):
            self._live.observe(groups)

    def state(self) -> Mapping[str, JsonValue]:
        """Stage, place and remembered accuracies."""
        return stored(
            StagesState(self._stage, self._cursor.position, dict(self._live.seen)), self._stream
        )

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`. Raises UserError when it is of other tasks."""
        found = restored(StagesState, state, self._stream)
        self._stage = found.stage
        self._cursor.seek(found.position)
        self._live.seen = dict(found.seen)


def stage_at(stages: Sequence[Stage], step: int) -> int:
    """Index of the stage that `step` is in; the last goes on for ever."""
    end = 0
    for index, stage in enumerate(stages[:-1]):
        end += stage.steps or 0
        if step < end:
            return index
    return len(stages) - 1


def hard(
    *,
    stream: TaskStream,
    from_step: int = 0,
    below: float = 4 / 64,
    rates: str | None = None,
    component: str = "env",
    above: float = 0.5,
) -> Stages:
    """Hard prompts at the end (ORZ, 2503.24290): every task first, then those solved below 4 in 64.

    Args:
        stream: what is drawn from.
        from_step: first step that draws hard tasks alone.
        below: a task is hard when its pass rate is under this.
        rates: a trajectories.jsonl of `agentrl eval`; None takes a task's accuracy when this run
            last drew it before `from_step`, tasks never drawn being left out.
        component: the reward that says whether a trajectory is correct.
        above: it is when that is above this bar.

    Raises UserError when nothing can be known at `from_step`.
    """
    if rates is None and from_step < 1:
        raise UserError(
            "hard needs data.source.from_step=N, or data.source.rates=trajectories.jsonl"
        )
    if rates is None:
        must_repeat(stream, "hard without data.source.rates")
    last = Stage(max_rate=below, open=True, unmeasured=False)
    stages = (Stage(steps=from_step), last) if from_step else (last,)
    return Stages(
        stream=stream, stages=stages, rates=rates, until=from_step, component=component, above=above
    )


__all__ = ["Stage", "Stages", "StagesState", "hard", "stage_at"]
