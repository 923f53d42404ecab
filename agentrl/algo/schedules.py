"""Schedules of numbers: learning rate, temperature, a term's scale, length of the answers.

Each is a pure function of `Ctx`, so a resumed run is on the same point of the same curve. Steps
count from 0; what is due at step s holds for that step's rollouts and update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.algo.ramp import Shape, between
from agentrl.errors import UserError
from agentrl.points import NO_PATCH, Ctx, Patch


def ramp(
    step: int, start: float, end: float, *, from_step: int, steps: int, shape: Shape
) -> float | None:
    """`start` at `from_step`, `end` from `from_step + steps` on; None before.

    At 0 steps it jumps.
    """
    if step < from_step:
        return None
    return between(start, end, (step - from_step) / steps if steps else 1.0, shape)


@dataclass(frozen=True, slots=True)
class _Ramp:
    """Options that every curve has."""

    start: float
    end: float
    steps: int | None = None
    """Length; None: from `from_step` to the end of the run."""
    from_step: int = 0
    """Before it nothing is changed."""
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if self.from_step < 0 or (self.steps is not None and self.steps < 0):
            raise UserError("a schedule needs from_step >= 0 and steps >= 0")

    def value(self, ctx: Ctx) -> float | None:
        """At the step; None before the curve begins."""
        # A run of N steps ends at step N - 1, which must have reached `end`.
        steps = max(0, ctx.total_steps - 1 - self.from_step) if self.steps is None else self.steps
        return ramp(
            ctx.step, self.start, self.end, from_step=self.from_step, steps=steps, shape=self.shape
        )


@dataclass(frozen=True, slots=True)
class Anneal(_Ramp):
    """The learning rate along a line or a cosine: ORZ (2503.24290) ends 1e-6 -> 3e-7 in 100 steps.

    It replaces `learner.lr`; the learner's warm-up still multiplies it.
    """

    def __post_init__(self) -> None:
        _Ramp.__post_init__(self)
        if min(self.start, self.end) < 0:
            raise UserError("anneal needs start >= 0 and end >= 0: they are learning rates")

    def at(self, ctx: Ctx) -> Patch:
        """The rate."""
        return Patch(lr=self.value(ctx))


@dataclass(frozen=True, slots=True)
class Temperature(_Ramp):
    """The rollouts' temperature: AceReason (2505.16400) raises it from 0.6 to 1.0 in code stage 2."""

    def __post_init__(self) -> None:
        _Ramp.__post_init__(self)
        if min(self.start, self.end) <= 0:
            raise UserError(
                "temperature needs start > 0 and end > 0: greedy rollouts teach nothing"
            )

    def at(self, ctx: Ctx) -> Patch:
        """The temperature."""
        return Patch(temperature=self.value(ctx))


@dataclass(frozen=True, slots=True)
class Scale(_Ramp):
    """A factor on one term of the loss: KDRL (2506.02208) lets its distillation fade.

    Its beta max(5e-3 - 5e-5 step, 1e-3) is coef=5e-3 of the term and start=1, end=0.2, steps=80.
    """

    term: str = ""
    """`policy`, or an auxiliary term's registry name."""

    def __post_init__(self) -> None:
        _Ramp.__post_init__(self)
        if not self.term:
            raise UserError("scale needs term=policy or the name of an auxiliary term")

    def at(self, ctx: Ctx) -> Patch:
        """The factor."""
        value = self.value(ctx)
        return NO_PATCH if value is None else Patch(scales={self.term: value})


@dataclass(frozen=True, slots=True)
class LengthStages:
    """The budget of tokens grows in stages.

    CAMPO (MiroMind-M1, 2507.14683): 16K -> 32K (7B, after 1200 steps); AceReason 8K -> 16K -> 24K ->
    32K; FastCuRL (2503.17287) 8K, 16K, 24K, 16K after 160, 590 and 230 steps, with the `stages`
    source in step. The last value must not exceed `env.max_tokens`, which sizes the engine.
    """

    tokens: tuple[int, ...]
    """Tokens of one row, stage by stage."""
    steps: tuple[int, ...]
    """Length of every stage but the last."""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.steps) + 1 or min((*self.tokens, *self.steps)) < 1:
            raise UserError(
                f"length_stages needs one step count less than budgets, all at least 1; it has "
                f"{len(self.steps)} and {len(self.tokens)}"
            )

    def at(self, ctx: Ctx) -> Patch:
        """The budget of the step's stage."""
        return Patch(max_tokens=self.tokens[stage(self.steps, ctx.step)])


def stage(steps: Sequence[int], step: int) -> int:
    """Index of the stage a step is in, given the lengths of all stages but the last."""
    end = 0
    for index, length in enumerate(steps):
        end += length
        if step < end:
            return index
    return len(steps)


__all__ = ["Anneal", "LengthStages", "Scale", "Shape", "Temperature", "ramp", "stage"]
