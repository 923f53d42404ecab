"""Numbers that change over the steps, alone and as options of a configured term."""

from __future__ import annotations

import pytest

from agentrl.algo.aux import KL, REDI, Distill, DistillUnsolved, Entropy
from agentrl.algo.ramp import Ramp, check_coef, value_at
from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.plugins import build
from agentrl.points import AuxTerm, PolicyLoss


def test_linear() -> None:
    """KDRL's max(5e-3 - 5e-5 step, 1e-3)."""
    ramp = Ramp(5e-3, 1e-3, 80)
    expected = {-1: 0.005, 0: 0.005, 40: 0.003, 79: 1.05e-3, 80: 0.001, 500: 0.001}
    assert {step: ramp.at(step) for step in expected} == pytest.approx(expected)


def test_cosine() -> None:
    ramp = Ramp(1.0, 0.0, 4, "cosine")
    expected = [1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0, 0.0]
    assert [ramp.at(step) for step in range(6)] == pytest.approx(expected)


def test_a_number_stays() -> None:
    assert value_at(0.3, 0) == value_at(0.3, 99) == 0.3


@pytest.mark.parametrize("options", [{"steps": 0}, {"start": float("nan")}])
def test_bad_ramps_are_told(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="ramp"):
        Ramp(**({"start": 0.0, "end": 1.0, "steps": 3} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1.0, float("inf"), Ramp(0.1, -0.1, 3)])
def test_coefficients_are_not_negative(value: float | Ramp) -> None:
    with pytest.raises(UserError, match=r"kl\.coef"):
        check_coef("kl.coef", value)


def test_a_configuration_writes_a_ramp_wherever_it_writes_a_number() -> None:
    node = {"start": 0.1, "end": 0.2, "steps": 3, "shape": "cosine"}
    ramp = Ramp(0.1, 0.2, 3, "cosine")
    assert build("aux", Plugin(name="kl", coef=node)) == KL(ramp)  # type: ignore[call-arg]
    assert build("aux", Plugin(name="entropy", coef=1)) == Entropy(1.0)  # type: ignore[call-arg]
    assert build("aux", Plugin(name="redi", coef=node)) == REDI(ramp)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="coef"):
        build("aux", Plugin(name="kl", coef={"start": 0.1}))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "name", ["clip", "gppo", "cispo", "gspo", "sequence_ratio", "reinforce", "oreal", "shaped"]
)
def test_losses_are_found_by_name(name: str) -> None:
    assert isinstance(build("loss", Plugin(name=name)), PolicyLoss)


@pytest.mark.parametrize(
    "name",
    [
        "adaptive_entropy",
        "distill",
        "dpo",
        "echo",
        "entropy",
        "kl",
        "redi",
        "sft_positives",
        "supervised",
        "tea",
    ],
)
def test_terms_are_found_by_name(name: str) -> None:
    needed = {"kl": "coef", "entropy": "coef", "echo": "coef", "adaptive_entropy": "target"}
    options = {needed[name]: 0.1} if name in needed else {}
    assert isinstance(build("aux", Plugin(name=name, **options)), AuxTerm)  # type: ignore[arg-type]
    if name in needed:
        with pytest.raises(UserError, match=rf"aux\.{needed[name]}"):
            build("aux", Plugin(name=name))


def test_distillations_mask_is_an_option() -> None:
    assert build("aux", Plugin(name="distill")) == Distill()
    response = Plugin(name="distill", mask="response", estimator="k3")  # type: ignore[call-arg]
    assert build("aux", response) == Distill(estimator="k3", skip_correct=True)
    group = Plugin(name="distill", mask="group", coef=0.002)  # type: ignore[call-arg]
    assert build("aux", group) == DistillUnsolved(0.002)
