"""Importance weights: hand-computed values, which tokens they touch, and their metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agentrl.algo.loss import Clip
from agentrl.algo.offpolicy import OFF, Correction, correct, denominators, log_ratios, mismatch
from agentrl.algo.types import Batch, RowContext
from agentrl.errors import UserError
from agentrl.transcript import Origin

Make = Callable[..., Batch]
OLD = torch.tensor([[-1.0, -2.0]])
ROLLOUT = torch.tensor([[-1.5, -1.9]])
BOTH = torch.tensor([[True, True]])


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        (Correction("token", high=2.0), [1.64872, 0.90484]),
        (Correction("token", high=1.5), [1.5, 0.90484]),
        (Correction("sequence", high=2.0), [1.49182, 1.49182]),
        (Correction("sequence", high=1.2), [1.2, 1.2]),
        (Correction("token", low=0.95, high=2.0), [1.64872, 0.0]),
        (Correction("token", low=0.5, high=1.5), [0.0, 0.90484]),
        (Correction("sequence", low=0.5, high=1.4), [0.0, 0.0]),
        (OFF, [1.0, 1.0]),
        (Correction("token", normalize=True), [1.64872 / 1.27678, 0.90484 / 1.27678]),
        (Correction("sequence", normalize=True), [1.0, 1.0]),
    ],
)
def test_weights(correction: Correction, expected: list[float]) -> None:
    got = correction.weights(OLD, ROLLOUT, BOTH)
    assert got[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_bounds_are_on_the_ratio_not_its_inverse() -> None:
    """ratio 1.65 is inside [0.5, 2] and outside [0.5, 1.6]; its inverse 0.61 is inside both."""
    assert correct(OLD, ROLLOUT, BOTH, level="token", low=0.5, high=1.6)[0, 0] == 0
    assert correct(OLD, ROLLOUT, BOTH, level="token", low=0.65, high=2.0)[0, 0] > 1.6


def test_masked_tokens_weigh_nothing_and_do_not_enter_the_sequence() -> None:
    mask = torch.tensor([[True, False]])
    got = correct(OLD, ROLLOUT, mask, level="sequence", high=9)
    assert got[0].tolist() == pytest.approx([1.64872, 0.0], abs=1e-4)


def test_weights_are_detached_and_neutral_when_engines_agree() -> None:
    old = OLD.clone().requires_grad_()
    assert not correct(old, ROLLOUT, BOTH, level="token").requires_grad
    assert correct(OLD, OLD, BOTH, level="sequence").tolist() == [[1.0, 1.0]]
    assert log_ratios(torch.tensor([[99.0, 0.0]]), torch.zeros(1, 2), BOTH)[0, 0] == 20


def test_mismatch_metrics() -> None:
    """d = [0.5, -0.1], weights as they are."""
    d = torch.tensor([0.5, -0.1])
    w = d.exp()
    got = mismatch(d, w, Correction("token", high=1.5))
    k3 = (math.exp(0.5) - 1.5 + math.exp(-0.1) - 0.9) / 2
    a, b = math.exp(0.5), math.exp(-0.1)
    assert got == pytest.approx(
        {
            "kl_k1": -0.2,
            "kl_k3": k3,
            "ratio_max": a,
            "chi2": (a * a + b * b) / 2 - 1,
            "ess": (a + b) ** 2 / (2 * (a * a + b * b)),
            "weight_mean": (a + b) / 2,
            "weight_clipped_share": 0.5,
        },
        rel=1e-6,
    )
    assert mismatch(torch.zeros(0), torch.zeros(0), OFF) == {}


def rows_of_each_kind(make: Make) -> tuple[Batch, torch.Tensor]:
    """Row 0 plain with a FORCED first token (declared log 0.5), row 1 `behaviour`, 2 `relabel`."""
    batch = make([0, 0, 0], [0, 0, 0], lengths=[2, 2, 2])
    origins = batch.origins.clone()
    origins[0, 1] = int(Origin.FORCED)
    behaviour = torch.tensor([[0, math.log(0.5), -1.9], [0, -1.5, -1.9], [0, -1.5, -1.9]])
    contexts = [RowContext.SAME, RowContext.BEHAVIOUR, RowContext.RELABEL]
    batch = replace(
        batch,
        origins=origins,
        behaviour_logprobs=behaviour,
        contexts=torch.tensor(contexts, dtype=torch.int8),
    )
    return batch, torch.tensor([[0.0, -1.0, -2.0]]).expand(3, 3).clone()


def test_denominators_by_kind_of_row(make: Make) -> None:
    batch, learner = rows_of_each_kind(make)
    old, behaviour = denominators(batch, learner, OFF)
    assert old[0].tolist() == pytest.approx([0, math.log(0.5), -2.0])
    assert old[1].tolist() == pytest.approx([0, -1.5, -1.9])
    assert old[2].tolist() == pytest.approx([0, -1.0, -2.0])
    weights = Correction("token").weights(old, behaviour, batch.mask)
    assert weights[0, 1:].tolist() == pytest.approx([1.0, math.exp(-0.1)], abs=1e-6)
    assert weights[1:, 1:].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_bypass_takes_the_recorded_denominator_except_where_relabelled(make: Make) -> None:
    batch, learner = rows_of_each_kind(make)
    old, _ = denominators(batch, learner, Correction(old="behaviour"))
    assert old[0].tolist() == pytest.approx([0, math.log(0.5), -1.9])
    assert old[2].tolist() == pytest.approx([0, -1.0, -2.0])


def test_hinted_ratio_is_guides(make: Make) -> None:
    """logp without the hint -2.0, recorded under it -1.5: the ratio is 0.60653."""
    batch, _ = rows_of_each_kind(make)
    logprobs = torch.full(batch.mask.shape, -2.0)
    old, _ = denominators(batch, logprobs, OFF)
    losses, _ = Clip(low=0.5)(logprobs, old, torch.ones(batch.mask.shape), batch.mask)
    assert losses[1, 1].item() == pytest.approx(-0.60653, abs=1e-5)
    assert losses[2, 1].item() == -1.0


@pytest.mark.parametrize(
    "options",
    [{"high": 0.0}, {"low": 3.0}, {"low": -0.1}, {"level": "token", "old": "behaviour"}],
)
def test_bad_settings_are_told(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="offpolicy"):
        Correction(**options)  # type: ignore[arg-type]
