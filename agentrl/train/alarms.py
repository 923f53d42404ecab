"""What a run must not do silently: named warnings with advice, and the ones that end it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from agentrl.errors import RunFailed

QUIET = 20
"""Steps before a warning that still holds is given again."""

WINDOW = 5
"""Steps whose mean the tool collapse is judged by: few tasks of a step are hard."""
CALLED = 0.2
"""Calls per trajectory on hard tasks that count as using the tool."""
LEFT = 0.5
"""Share of their best that calls on hard tasks fall below in a collapse."""
WORSE = 0.05
"""Accuracy that has to be lost for a collapse."""

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing to watch for."""

    name: str
    holds: Callable[[Metrics, Sequence[Metrics]], bool]
    """This step's metrics and those of the steps before."""
    steps: int
    """Steps in a row that it must hold."""
    advice: str
    fatal_after: int | None = None
    """Steps in a row after which the run ends; None warns only."""


def watched(stall_steps: int | None) -> tuple[Alarm, ...]:
    """The alarms of a run that ends after `stall_steps` steps without anything to learn from."""
    return (
        Alarm(
            "no signal",
            lambda now, past: now.get("zero_variance_groups", 0.0) >= 1 and _flat(now),
            3,
            "all groups have equal rewards, so no advantage differs from 0: use tasks that are "
            "neither solved nor hopeless, more rollout.group_size, or algo.gate=accuracy_band",
            stall_steps,
        ),
        Alarm(
            "empty mask",
            lambda now, past: now.get("n_tokens", 1.0) == 0,
            1,
            "no token is trained: every trajectory was excluded, truncated before it wrote anything "
            "or failed; look at stop/* and excluded in metrics.jsonl",
            3,
        ),
        Alarm(
            "full mask",
            lambda now, past: now.get("mask_share", 0.0) >= 1,
            1,
            "every token of every row is trained, prompts included: the environment's first "
            "messages or the renderer are broken",
            3,
        ),
        Alarm(
            "not finite",
            lambda now, past: now.get("skipped_steps", 0.0) > 0,
            1,
            "the loss or its gradient was not finite and the step was skipped: lower learner.lr, or "
            "use model.dtype=float32",
        ),
        Alarm(
            "few advantages",
            lambda now, past: now.get("zero_advantage_rows", 0.0) > 0.7,
            20,
            "more than 70 % of the rows teach nothing; algo.gate=accuracy_band replaces their groups",
        ),
        Alarm(
            "collapse",
            lambda now, past: (
                bool(past) and now.get("entropy", 1.0) < 0.1 * _first(past, "entropy")
            ),
            1,
            "the policy's entropy fell below a tenth of where it began; lower learner.lr, add an "
            "entropy or KL term, or stop here",
        ),
        Alarm(
            "tool collapse",
            lambda now, past: calls_collapsed((*past, now)),
            1,
            "the policy calls tools less and less on the tasks it does not solve, and solves fewer: a "
            "reward for few calls may have won over the answer; give the otc shaper keep=0.05, "
            "or leave it out until the tasks are solved",
        ),
        Alarm(
            "stale data",
            lambda now, past: now.get("ess", 1.0) < 0.5,
            1,
            "the effective sample size of the importance weights is below one half: engine and "
            "learner disagree, or the data is too old",
        ),
        Alarm(
            "truncation",
            lambda now, past: now.get("truncated", 0.0) > 0.3,
            5,
            "more than 30 % of the episodes end at a limit; raise env.turn_tokens, env.max_tokens or "
            "env.max_turns, or add the overlong shaper",
        ),
        Alarm(
            "judge",
            lambda now, past: now.get("judge_failures", 0.0) > 0.02,
            1,
            "more than 2 % of the judge's grades could not be had; look at its server",
        ),
    )


def _flat(now: Metrics) -> bool:
    """Shaping or a critic may still tell equal outcomes apart."""
    return now.get("zero_advantage_rows", 1.0) >= 1


def _first(past: Sequence[Metrics], name: str) -> float:
    return next((metrics[name] for metrics in past if name in metrics), 0.0)


def calls_collapsed(steps: Sequence[Metrics]) -> bool:
    """Whether calls on hard tasks fell below half of their best while accuracy fell by 0.05.

    Means over `WINDOW` steps are compared, the last one with the best of those before it; tasks
    that the run never called a tool for are none of its business.
    """
    calls, accuracy = _windows(steps, "calls_hard"), _windows(steps, "accuracy")
    if len(calls) < 2 or len(accuracy) < 2:
        return False
    best = max(calls[:-1])
    gone = best >= CALLED and calls[-1] < LEFT * best
    return gone and accuracy[-1] < max(accuracy[:-1]) - WORSE


def _windows(steps: Sequence[Metrics], name: str) -> list[float]:
    """Means over every `WINDOW` steps in a row that have the metric."""
    values = [step[name] for step in steps if math.isfinite(step.get(name, math.nan))]
    return [fmean(values[i : i + WINDOW]) for i in range(len(values) - WINDOW + 1)]


class Alarms:
    """Counts for how long each alarm has held, from the past that a run remembers."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        self._alarms = alarms

    def check(self, now: Metrics, past: Sequence[Metrics]) -> list[str]:
        """Warnings that are due after a step. Raises RunFailed when one ends the run."""
        warnings: list[str] = []
        for alarm in self._alarms:
            run = _run_length(alarm, now, past)
            if alarm.fatal_after is not None and run >= alarm.fatal_after:
                raise RunFailed(f"{alarm.name} for {run} steps: {alarm.advice}")
            if run >= alarm.steps and (run - alarm.steps) % QUIET == 0:
                warnings.append(f"warning, {alarm.name}: {alarm.advice}")
        return warnings


def _run_length(alarm: Alarm, now: Metrics, past: Sequence[Metrics]) -> int:
    """Steps in a row, this one last, in which it held."""
    if not alarm.holds(now, past):
        return 0
    length = 1
    for index in range(len(past) - 1, -1, -1):
        if not alarm.holds(past[index], past[:index]):
            break
        length += 1
    return length


__all__ = ["Alarm", "Alarms", "calls_collapsed", "watched"]
