"""Auxiliary terms: values, gradients and whose tokens they count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

from agentrl.algo.aux import (
    KL,
    TEA,
    AdaptiveEntropy,
    Distill,
    DistillUnsolved,
    Echo,
    Entropy,
    SFTPositives,
    Supervised,
    adapted,
    kl_estimate,
)
from agentrl.algo.ramp import Ramp
from agentrl.algo.types import Batch, ForwardOutput
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=1, seed=0)
Make = Callable[..., Batch]


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        ("k1", 0.2, 1.0),
        ("k2", 0.02, 0.2),
        ("k3", 0.018731, 1 - 0.818731),
        ("k3+", 0.018731, 0.2),
        ("abs", 0.2, 1.0),
    ],
)
def test_kl_estimates(estimator: str, value: float, gradient: float) -> None:
    """logp = -1, reference -1.2."""
    logprobs = torch.tensor([-1.0], requires_grad=True)
    got = kl_estimate(logprobs, torch.tensor([-1.2]), estimator)  # type: ignore[arg-type]
    got.sum().backward()
    assert got.item() == pytest.approx(value, abs=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(gradient, abs=1e-6)


def output(batch: Batch, n_tokens: int) -> ForwardOutput:
    shape = batch.mask.shape
    return ForwardOutput(torch.full(shape, -1.0), torch.full(shape, 2.0), n_tokens)


def test_terms_divide_by_the_global_count(make: Make) -> None:
    """Two of four tokens are here: half of each mean."""
    batch = make([0], [0], lengths=[2])
    batch = replace(batch, ref_logprobs=torch.full(batch.mask.shape, -1.2))
    loss, metrics = KL(0.1, "k2")(output(batch, 4), batch, CTX)
    assert float(loss) == pytest.approx(0.1 * 0.02 / 2, abs=1e-7)
    assert float(metrics["kl_ref"]) == pytest.approx(0.01, abs=1e-6)
    loss, _ = Entropy(0.1)(output(batch, 4), batch, CTX)
    assert float(loss) == pytest.approx(-0.1)


def test_supervised_reads_its_origin_only(make: Make) -> None:
    batch = make([0, 0], [0, 0], lengths=[2, 1])
    origins = batch.origins.clone()
    origins[0, 0] = origins[0, 2] = int(Origin.DEMO)
    batch = replace(batch, origins=origins)
    term = Supervised(coef=0.5)
    assert term.tokens(batch).nonzero().tolist() == [[0, 2]]
    loss, metrics = term(output(batch, 1), batch, CTX)
    assert float(loss) == pytest.approx(0.5)
    assert float(metrics["sft_loss"]) == pytest.approx(1.0)


def test_kl_without_a_reference_is_told(make: Make) -> None:
    batch = make([0], [0])
    with pytest.raises(UserError, match="reference"):
        KL(0.1)(output(batch, 1), batch, CTX)


def after(**metrics: float) -> Ctx:
    """A step that follows one with these metrics."""
    return Ctx(step=5, total_steps=10, seed=0, metrics=metrics)


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.2, 0.1 * 1.0128), (0.05, 0.1 * 0.9872), (0.105, 0.1 * 1.0032)]
)
def test_the_coefficient_follows_the_target(kl: float, expected: float) -> None:
    """Target .1, 64 of 1,000: off by more than 20 % counts as 20 %, +5 % as 5 %."""
    assert adapted(0.1, kl, target=0.1, n=64, horizon=1000) == pytest.approx(expected)


def test_a_steered_kl_goes_on_from_the_step_before(make: Make) -> None:
    term = KL(0.1, "k2", target=0.01, horizon=100)
    assert term.coefficient(CTX) == 0.1
    assert term.coefficient(after(kl_coef=0.5, kl_ref=0.012, n_sequences=10)) == pytest.approx(
        0.5 * (1 + 0.2 * 0.1)
    )
    batch = make([0], [0], lengths=[2])
    batch = replace(batch, ref_logprobs=torch.full(batch.mask.shape, -1.2))
    ctx = after(kl_coef=0.5, kl_ref=0.01, n_sequences=10)
    loss, metrics = term(output(batch, 2), batch, ctx)
    assert float(loss) == pytest.approx(0.5 * 0.02)
    assert float(metrics["kl_coef"]) == pytest.approx(0.5)


def test_coefficients_may_follow_a_ramp(make: Make) -> None:
    batch = make([0], [0], lengths=[2])
    term = Entropy(Ramp(0.4, 0.0, 10))
    for step, coef in [(0, 0.4), (5, 0.2), (10, 0.0)]:
        loss, metrics = term(output(batch, 2), batch, Ctx(step=step, total_steps=10, seed=0))
        assert float(loss) == pytest.approx(-coef * 2.0)
        assert float(metrics["entropy_coef"]) == pytest.approx(coef)


@pytest.mark.parametrize(
    ("metrics", "coef"),
    [({}, 0.0), ({"entropy": 0.29}, 0.1), ({"entropy": 0.3}, 0.0), ({"entropy": 2.0}, 0.0)],
)
def test_an_entropy_floor_acts_below_it(metrics: Mapping[str, float], coef: float) -> None:
    assert Entropy(0.1, floor=0.3).coefficient(after(**metrics)) == coef


def test_adaptive_entropy_looks_for_its_coefficient(make: Make) -> None:
    """Target .3, delta .1: grows below, shrinks above, within [0, .2]; acts below only."""
    batch, term = make([0], [0], lengths=[2]), AdaptiveEntropy(0.3, delta=0.1, max_coef=0.2)
    control, seen = 0.0, list[tuple[float, float]]()
    assert term.coefficient(CTX) == 0.0
    for entropy in [0.2, 0.1, 0.1, 0.5, 0.25, 0.9, 0.9, 0.9]:
        ctx = after(entropy=entropy, entropy_control=control)
        loss, metrics = term(output(batch, 2), batch, ctx)
        control = float(metrics["entropy_control"])
        seen.append((round(control, 6), round(float(loss), 6)))
    assert seen == [
        (0.1, -0.2),
        (0.2, -0.4),
        (0.2, -0.4),
        (0.1, 0.0),
        (0.2, -0.4),
        (0.1, 0.0),
        (0.0, 0.0),
        (0.0, 0.0),
    ]


@pytest.mark.parametrize(
    ("term", "entropy"),
    [
        (TEA(1.0), 0.7),
        (TEA(1.0, times_tokens=True), 1.4),
        (TEA(1.0, cap=0.6, times_tokens=True), 0.6 * 0.7 * 2),
        (TEA(1.0, cap=0.6), 0.7),
    ],
)
def test_tea_by_hand(make: Make, term: TEA, entropy: float) -> None:
    """logp [-.1, -2], A [1, -1]: both covariances .95, both weights .5; H [.2, 1.2]."""
    batch = make([0, 0], [0, 0], lengths=[1, 1])
    batch = replace(
        batch,
        old_logprobs=torch.tensor([[0, -0.1], [0, -2.0]]),
        advantages=torch.tensor([[0, 1.0], [0, -1.0]]),
    )
    entropies = torch.tensor([[9.0, 0.2], [9.0, 1.2]])
    found = ForwardOutput(torch.zeros(2, 2), entropies, 2, term.weights(batch, CTX))
    loss, metrics = term(found, batch, CTX)
    assert float(loss) == pytest.approx(-entropy)
    assert float(metrics["tea_entropy"]) == pytest.approx(entropy)


def test_teas_weights_are_a_softmax_of_covariances(make: Make) -> None:
    """logp [-1, -2, -6], A [2, 0, -2]: covariances 4, 0, 6 around the means -3 and 0."""
    batch = make([0], [0], lengths=[3])
    batch = replace(
        batch,
        old_logprobs=torch.tensor([[0, -1.0, -2.0, -6.0]]),
        advantages=torch.tensor([[0, 2.0, 0.0, -2.0]]),
    )
    shares = [math.exp(c / 2) for c in (4, 0, 6)]
    expected = [0.0, *(s / sum(shares) for s in shares)]
    assert TEA(tau=2.0).weights(batch, CTX)[0].tolist() == pytest.approx(expected)
    capped = [0.0, *(min(s / sum(shares), 0.25) for s in shares)]
    paper = TEA(tau=2.0, cap=0.75, times_tokens=True).weights(batch, CTX)[0].tolist()
    assert paper == pytest.approx([3 * w for w in capped])


def test_sft_positives_is_a_mean_over_correct_rows(make: Make) -> None:
    """Two correct tokens of NLL 1 and 3, three wrong ones: .1 * 2."""
    batch = make([1, 0, 1], [0, 0, 0], lengths=[1, 3, 1])
    term = SFTPositives()
    logprobs = torch.tensor([[0, -1.0, 0, 0], [0, -7.0, -7, -7], [0, -3.0, 0, 0]])
    count = int(term.tokens(batch).sum())
    assert count == 2
    loss, metrics = term(ForwardOutput(logprobs, logprobs, count), batch, CTX)
    assert float(loss) == pytest.approx(0.2)
    assert float(metrics["positives_loss"]) == pytest.approx(2.0)
    assert float(metrics["positives_share"]) == pytest.approx(0.4)


def test_echo_reads_observations_only(make: Make) -> None:
    batch = make([0, 0], [0, 0], lengths=[3, 2])
    origins = batch.origins.clone()
    origins[0, 2] = origins[0, 0] = origins[1, 2] = int(Origin.OBSERVATION)
    batch = replace(batch, origins=origins)
    term = Echo(0.5)
    assert term.tokens(batch).nonzero().tolist() == [[0, 2], [1, 2]]
    logprobs = torch.tensor([[-9.0, -9, -1, -9], [-9.0, -9, -3, -9]])
    loss, metrics = term(ForwardOutput(logprobs, logprobs, 2), batch, CTX)
    assert float(loss) == pytest.approx(1.0)
    assert float(metrics["echo_loss"]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("term", "mean"),
    [
        (Distill(1.0), 0.2402),
        (Distill(1.0, "k3"), 0.1931),
        (Distill(1.0, skip_correct=True), 0.2402 / 2),
        (DistillUnsolved(1.0), 0.0),
    ],
)
def test_distillation_by_hand(make: Make, term: Distill | DistillUnsolved, mean: float) -> None:
    """pi = .5, teacher .25, correct [1, 0]: the response mask keeps [0, 1], the group mask nothing."""
    batch = make([1, 0], [0, 0], lengths=[1, 1])
    batch = replace(batch, teacher_logprobs=torch.full((2, 2), math.log(0.25)))
    logprobs = torch.full((2, 2), math.log(0.5))
    weights = term.weights(batch, CTX) if isinstance(term, DistillUnsolved) else None
    loss, metrics = term(ForwardOutput(logprobs, logprobs, 2, weights), batch, CTX)
    assert float(loss) == pytest.approx(mean, abs=1e-4)
    assert float(metrics["teacher_kl"]) == pytest.approx(mean, abs=1e-4)


def test_distillation_pulls_towards_the_teacher_and_fades(make: Make) -> None:
    """A difference of .4 costs .08; its coefficient is .005 at step 0 and .001 from 80 on."""
    batch = make([0], [0], lengths=[1])
    batch = replace(batch, teacher_logprobs=torch.full((1, 2), -1.0))
    for step, coef in [(0, 0.005), (40, 0.003), (80, 0.001), (500, 0.001)]:
        logprobs = torch.tensor([[0.0, -1.4]], requires_grad=True)
        ctx = Ctx(step=step, total_steps=500, seed=0)
        loss, metrics = Distill()(ForwardOutput(logprobs, logprobs, 1), batch, ctx)
        loss.backward()
        assert loss.item() == pytest.approx(coef * 0.08)
        assert logprobs.grad is not None
        assert logprobs.grad[0].tolist() == pytest.approx([0.0, -coef * 0.4])
        assert float(metrics["distill_coef"]) == pytest.approx(coef)


def test_unsolved_groups_are_distilled_whole(make: Make) -> None:
    batch = make([1, 0, 0, 0.5], [0, 0, 1, 1], lengths=[1, 2, 2, 1])
    kept = DistillUnsolved().weights(batch, CTX)
    assert kept.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("make_term", "message"),
    [
        (lambda: KL(-0.1), r"kl\.coef"),
        (lambda: KL(Ramp(0.1, 0.2, 3), target=0.1), "ramp"),
        (lambda: KL(0.1, target=0.0), "above 0"),
        (lambda: Entropy(math.nan), r"entropy\.coef"),
        (lambda: Entropy(0.1, floor=-1.0), "floor"),
        (lambda: AdaptiveEntropy(0.3, delta=0.0), "delta"),
        (lambda: TEA(tau=0.0), "tau"),
        (lambda: SFTPositives(-1.0), "sft_positives"),
        (lambda: Echo(-1.0), "echo"),
        (lambda: Supervised(-1.0), "supervised"),
        (lambda: Distill(-1.0), "distill"),
    ],
)
def test_bad_options_are_told(make_term: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_term()


def test_distillation_without_a_teacher_is_told(make: Make) -> None:
    batch = make([0], [0])
    with pytest.raises(UserError, match="teacher"):
        Distill()(output(batch, 1), batch, CTX)
