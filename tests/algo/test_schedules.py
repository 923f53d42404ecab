"""Schedules: the papers' points, and that they depend on nothing but where the run stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agentrl.algo.schedule_recap import Objective, Recap, recap_weights
from agentrl.algo.schedule_resets import MovingAnchor, PeriodicReset, ReferenceReset
from agentrl.algo.schedules import Anneal, LengthStages, Scale, Temperature, stage
from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.plugins import build
from agentrl.points import NO_PATCH, Ctx, Patch, Schedule, combined, needs_of

RESET = Patch(reset_reference=True, reset_optimizer=True)


def ctx(step: int, past: Sequence[Mapping[str, float]] = (), total: int = 101) -> Ctx:
    return Ctx(step=step, total_steps=total, seed=0, past=past)


def test_the_rate_of_orz() -> None:
    """1e-6 to 3e-7 over 100 steps: half way 6.5e-7; before it begins nothing changes."""
    anneal = Anneal(start=1e-6, end=3e-7, steps=100, from_step=200)
    assert isinstance(anneal, Schedule)
    assert anneal.at(ctx(199)) == NO_PATCH
    rates = [anneal.at(ctx(step)).lr for step in (200, 250, 300, 999)]
    assert rates == pytest.approx([1e-6, 6.5e-7, 3e-7, 3e-7])


def test_a_cosine_to_the_end_of_the_run() -> None:
    """cos at 0, 1/4, 1/2, 1 of the way: 1, .85355, .5, 0; the last step has the end value."""
    anneal = Anneal(start=1.0, end=0.0, shape="cosine")
    rates = [anneal.at(ctx(step)).lr for step in (0, 25, 50, 100)]
    assert rates == pytest.approx([1.0, 0.8535534, 0.5, 0.0])
    assert Anneal(start=1.0, end=0.5).at(ctx(0, total=1)).lr == 0.5


def test_the_temperature_of_aceason() -> None:
    schedule = Temperature(start=0.6, end=1.0, steps=4)
    found = [schedule.at(ctx(step)).temperature for step in range(6)]
    assert found == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert Temperature(start=0.6, end=1.0, steps=0, from_step=3).at(ctx(3)) == Patch(
        temperature=1.0
    )
    with pytest.raises(UserError, match="greedy"):
        Temperature(start=0.6, end=0.0)


def test_kdrl_fades_to_a_fifth() -> None:
    """beta at steps 0, 40, 80, 500: .005, .003, .001, .001."""
    schedule = Scale(term="distill", start=1.0, end=0.2, steps=80)
    betas = [5e-3 * schedule.at(ctx(step)).scales["distill"] for step in (0, 40, 80, 500)]
    assert betas == pytest.approx([0.005, 0.003, 0.001, 0.001])
    assert Scale(term="distill", start=1, end=0, from_step=5).at(ctx(4)) == NO_PATCH
    with pytest.raises(UserError, match="term="):
        Scale(start=1, end=0)


def test_length_stages() -> None:
    """FastCuRL's 160, 590, 230 and then on."""
    schedule = LengthStages(tokens=(8192, 16384, 24576, 16384), steps=(160, 590, 230))
    at = {
        0: 8192,
        159: 8192,
        160: 16384,
        749: 16384,
        750: 24576,
        979: 24576,
        980: 16384,
        9999: 16384,
    }
    assert {step: schedule.at(ctx(step)).max_tokens for step in at} == at
    assert stage((), 5) == 0
    for bad in ({"tokens": (1, 2), "steps": ()}, {"tokens": (0,), "steps": ()}):
        with pytest.raises(UserError, match="one step count less"):
            LengthStages(**bad)


def evals(*values: float | None) -> list[dict[str, float]]:
    """One step each; None did not evaluate."""
    return [{} if value is None else {"eval/accuracy": value} for value in values]


def resets(schedule: ReferenceReset, past: list[dict[str, float]], *, report: bool) -> list[int]:
    """Steps with a reset, played one after the other."""
    seen: list[dict[str, float]] = []
    found: list[int] = []
    for step, metrics in enumerate([*past, {}]):
        patch = schedule.at(ctx(step, seen))
        if patch.reset_reference:
            found.append(step)
        extra = {"reset_reference": 1.0} if patch.reset_reference and report else {}
        seen.append(metrics | extra)
    return found


@pytest.mark.parametrize("report", [True, False])
@pytest.mark.parametrize(
    ("values", "steps"),
    [
        # best at index 1; index 4 is 3 steps later -> reset before step 5.
        ((0.1, 0.5, 0.4, 0.5, 0.4), [5]),
        # steps that did not evaluate pass, and time passes with them.
        ((0.5, None, None, None, 0.5), [5]),
        ((0.5, None, None, float("nan"), None), []),
        # improvement starts the count anew.
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), []),
        # the value at the reset is the one to beat: .3 at index 3, .4 is news, then it stalls again.
        ((0.5, 0.4, 0.4, 0.3, 0.4, 0.4, 0.4, 0.4), [4, 8]),
        # degradation is stagnation too, again and again.
        ((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), [4, 7]),
    ],
)
def test_the_reference_is_reset_when_validation_stalls(
    values: tuple[float | None, ...], steps: list[int], report: bool
) -> None:
    assert resets(ReferenceReset(patience=3), evals(*values), report=report) == steps


def test_a_reported_reset_is_known_after_its_cause_is_forgotten() -> None:
    """The window begins after the best value; the report says that the count starts at step 4."""
    schedule = ReferenceReset(patience=3)
    past = evals(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    past[4]["reset_reference"] = 1.0
    assert schedule.at(ctx(7, past[3:])) == RESET
    assert schedule.at(ctx(6, past[3:6])) == NO_PATCH


def test_what_is_reset_and_how_much_is_news() -> None:
    past = evals(0.5, 0.51, 0.52)
    assert ReferenceReset(patience=2, min_delta=0.05).at(ctx(3, past)) == RESET
    kept = ReferenceReset(patience=2, min_delta=0.05, optimizer=False).at(ctx(3, past))
    assert kept == Patch(reset_reference=True)
    assert ReferenceReset(patience=1).at(ctx(0)) == NO_PATCH
    assert ReferenceReset(patience=1, metric="reward").at(ctx(3, past)) == NO_PATCH
    with pytest.raises(UserError, match="patience"):
        ReferenceReset(patience=0)


def test_periodic_resets_and_anchors() -> None:
    reset, anchor = PeriodicReset(every=3), MovingAnchor(rate=0.9, every=2)
    assert [s for s in range(10) if reset.at(ctx(s)) == Patch(reset_reference=True)] == [3, 6, 9]
    assert PeriodicReset(every=3, optimizer=True).at(ctx(3)) == RESET
    assert [anchor.at(ctx(s)).anchor for s in range(5)] == [None, None, 0.9, None, 0.9]
    assert needs_of(reset) == needs_of(anchor) == needs_of(ReferenceReset()) == {"reference"}
    for bad in (lambda: PeriodicReset(every=0), lambda: MovingAnchor(rate=1.0)):
        with pytest.raises(UserError):
            bad()


def test_recap_weights_of_the_paper() -> None:
    """[4, 4, 2, 2] -> c 2, i .27217; [1, 1, 1, 1] -> c 1, i 0."""
    assert recap_weights([[4, 4, 2, 2], [1, 1, 1, 1]]) == pytest.approx(
        [1.12653, 0.87347], abs=1e-5
    )
    even = recap_weights([[4, 4, 2, 2], [1, 1, 1, 1]], temperature=1e9)
    assert even == pytest.approx([1.0, 1.0])
    assert sum(recap_weights([[1, 0], [0, 0], [0, 5]])) == pytest.approx(3.0)


def test_recap_reads_the_last_steps() -> None:
    objectives = (Objective("policy", "accuracy", complement=True), Objective("supervised", "nll"))
    recap = Recap(objectives=objectives, window=2)
    past: list[dict[str, float]] = [{"accuracy": 7.0, "nll": -1.0}]
    past += [{"accuracy": 1 - x / 4, "nll": 1.0} for x in (4, 4, 2, 2)]
    assert recap.at(ctx(3, past[1:4])) == NO_PATCH
    found = recap.at(ctx(5, past)).scales
    # 1 - accuracy is a quarter of [4, 4, 2, 2]; both quotients are free of scale.
    assert found == pytest.approx({"policy": 1.12653, "supervised": 0.87347}, abs=1e-5)
    with pytest.raises(UserError, match="'accuracy' is -6"):
        recap.at(ctx(5, past[:4]))
    with pytest.raises(UserError, match="'nll' is missing"):
        recap.at(ctx(5, [{"accuracy": 0.5}] * 4))
    with pytest.raises(UserError, match="two or more"):
        Recap(objectives=objectives[:1])


@pytest.mark.parametrize(
    ("node", "patch"),
    [
        ({"name": "anneal", "start": 1e-6, "end": 0}, Patch(lr=5e-7)),
        ({"name": "temperature", "start": 0.6, "end": 1.0}, Patch(temperature=0.8)),
        ({"name": "scale", "term": "kl", "start": 0, "end": 1}, Patch(scales={"kl": 0.5})),
        ({"name": "length_stages", "tokens": [64, 128], "steps": [50]}, Patch(max_tokens=128)),
        ({"name": "periodic_reset", "every": 25}, Patch(reset_reference=True)),
        ({"name": "moving_anchor", "rate": 0.5}, Patch(anchor=0.5)),
        ({"name": "reference_reset", "patience": 5}, NO_PATCH),
        (
            {"name": "recap", "objectives": [{"term": t, "metric": t} for t in ("policy", "kl")]},
            NO_PATCH,
        ),
    ],
)
def test_schedules_are_written_in_a_configuration(node: dict[str, Any], patch: Patch) -> None:
    made = build("schedule", Plugin.model_validate(node))
    assert isinstance(made, Schedule)
    assert made.at(ctx(50)) == patch
    assert combined([made.at(ctx(50)), NO_PATCH]) == patch
