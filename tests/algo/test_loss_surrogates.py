"""Every surrogate against its paper: values, gradients by autograd, and the closed-form slopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.losses import CISPO, GPPO, GSPO, OREAL, Reinforce, SequenceRatio, Shaped
from agentrl.algo.losses.gspo import MAX_LOG_SEQUENCE_RATIO
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx, PolicyLoss

PPO = Clip(0.2, 0.28)
TESTED_CISPO = CISPO(low=0.2, high=0.28)


@dataclass
class Scored:
    """One row's losses, their slopes by each logprob, and metrics; index 0 is the prompt."""

    losses: list[float]
    slopes: list[float]
    metrics: dict[str, float]


def score(
    loss: PolicyLoss, log_ratios: list[float], advantage: float, old: float = -1.0, *, mean: bool
) -> Scored:
    """The row's tokens have logprob `old` + log ratio; slopes are of the tokens' sum or mean."""
    n = len(log_ratios)
    logprobs = torch.tensor([[0.0, *(old + x for x in log_ratios)]], dtype=torch.float64)
    logprobs.requires_grad_(True)
    before = torch.full((1, n + 1), old, dtype=torch.float64)
    mask = torch.arange(n + 1)[None] > 0
    advantages = torch.where(mask, advantage, 0.0).double()
    losses, metrics = loss(logprobs, before, advantages, mask)
    kept = losses.masked_fill(~mask, 0.0)
    (kept.sum() / (n if mean else 1)).backward()
    assert logprobs.grad is not None
    return Scored(
        losses.expand_as(logprobs)[0, 1:].tolist(),
        logprobs.grad[0, 1:].tolist(),
        {name: float(value) for name, value in metrics.items()},
    )


@pytest.mark.parametrize(
    ("loss", "ratio", "advantage", "slope"),
    [
        (PPO, 1.5, 1, 0.0),
        (PPO, 0.5, -1, 0.0),
        (GPPO(), 1.5, 1, -1.28),
        (GPPO(), 0.5, -1, 0.8),
        (GPPO(), 0.5, 1, -0.5),
        (GPPO(), 1.5, -1, 1.5),
        (TESTED_CISPO, 1.5, 1, -1.28),
        (TESTED_CISPO, 0.5, 1, -0.8),
        (TESTED_CISPO, 1.5, -1, 1.28),
        (TESTED_CISPO, 0.5, -1, 0.8),
        (CISPO(), 0.1, 1, -0.1),
        (CISPO(), 9.0, -1, 5.0),
        (Reinforce(), 9.0, 1, -9.0),
        (Reinforce(), 0.5, -2, 1.0),
        (OREAL(), 9.0, 2, -2.0),
        (OREAL(), 1.5, -1, 0.75),
        (OREAL(negative=1.0), 0.5, -2, 1.0),
        (GPPO(high_scale=0.5), 1.5, 1, -0.64),
        (GPPO(low_scale=0.25), 0.5, -1, 0.2),
    ],
)
def test_slopes(loss: PolicyLoss, ratio: float, advantage: float, slope: float) -> None:
    """d loss / d logp of one token."""
    found = score(loss, [math.log(ratio)], advantage, mean=False)
    assert found.slopes == pytest.approx([slope], abs=1e-9)


@pytest.mark.parametrize(
    ("loss", "ratio", "advantage", "value"),
    [
        (GPPO(), 1.5, 1, -1.28),
        (GPPO(), 0.5, 1, -0.5),
        (GPPO(), 0.5, -1, 0.8),
        (GPPO(), 1.5, -1, 1.5),
        (GPPO(), 5.0, -1, 5.0),
        (TESTED_CISPO, 1.5, 1, 1.28 * (1 - math.log(1.5))),
        (CISPO(), 2.0, -1, 2 * (math.log(2) - 1)),
        (Reinforce(), 1.5, 2, -3.0),
        (OREAL(), 1.5, 2, 2 * (1 - math.log(1.5))),
        (OREAL(), 1.5, -2, 1.5),
    ],
)
def test_values(loss: PolicyLoss, ratio: float, advantage: float, value: float) -> None:
    """The old logprob is -1, so logp is log(ratio) - 1."""
    found = score(loss, [math.log(ratio)], advantage, mean=False)
    assert found.losses == pytest.approx([value], abs=1e-9)


def test_gppo_has_the_value_of_clip_higher_to_the_bit() -> None:
    torch.manual_seed(0)
    logprobs, old, advantages = torch.randn(3, 40, 25)
    mask = torch.rand(40, 25) > 0.3
    for options in ({}, {"low_scale": 0.5, "high_scale": 3.0}):
        expected, told = Clip(0.2, 0.28)(logprobs, old, advantages, mask)
        got, metrics = GPPO(0.2, 0.28, **options)(logprobs, old, advantages, mask)
        assert torch.equal(got, expected)
        assert {k: float(v) for k, v in metrics.items()} == {k: float(v) for k, v in told.items()}


@pytest.mark.parametrize("loss", [GSPO(), GSPO(level="token")])
def test_gspo_by_hand(loss: GSPO) -> None:
    """Log-ratios .2 and -.1: s = exp(.05) = 1.05127, outside 1 + 4e-4."""
    good = score(loss, [0.2, -0.1], 1.0, mean=True)
    assert good.losses == pytest.approx([-1.0004, -1.0004], abs=1e-9)
    assert good.slopes == [0, 0]
    assert good.metrics["clip_high_share"] == 2
    assert good.metrics["ppo_kl"] == pytest.approx(-0.1)
    bad = score(loss, [0.2, -0.1], -1.0, mean=True)
    assert bad.losses == pytest.approx([1.051271, 1.051271], abs=1e-6)
    assert bad.slopes == pytest.approx([1.051271 / 2] * 2, abs=1e-6)


def test_gspo_caps_log_s_at_ten() -> None:
    found = score(GSPO(), [30.0, 30.0], -1.0, mean=True)
    assert found.losses == pytest.approx([math.exp(MAX_LOG_SEQUENCE_RATIO)] * 2)
    assert found.slopes == [0, 0]


@pytest.mark.parametrize(
    ("mean", "log_ratios", "advantage", "value", "slope"),
    [
        (True, [0.4, 0.4], 1.0, -1.2, 0.0),
        (True, [0.4, 0.4], -1.0, 1.4918, 1.4918 / 2),
        (True, [0.1, -0.1], 0.05, -0.05, -0.025),
        (False, [0.1, 0.05], 1.0, -1.16183, -1.16183),
        (False, [0.1, 0.1], 1.0, -1.2, 0.0),
        (False, [-0.2, -0.2], -1.0, 0.8, 0.0),
    ],
)
def test_sequence_ratio(
    mean: bool, log_ratios: list[float], advantage: float, value: float, slope: float
) -> None:
    """SPC's numbers (mean logp -.5 against -.9) first; then the product of the token ratios."""
    found = score(SequenceRatio(mean=mean), log_ratios, advantage, mean=True)
    assert found.losses == pytest.approx([value, value], abs=1e-4)
    assert found.slopes == pytest.approx([slope, slope], abs=1e-4)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_certain_tokens_are_shaped(advantage: float) -> None:
    """p = .2 counts .2 / .3 = .66667 with slope .1 * .2 / .3^2; a sampled token stays clipped."""
    found = score(Shaped(), [math.log(0.2)], advantage, old=0.0, mean=False)
    assert found.losses == pytest.approx([-advantage * 0.666667], abs=1e-6)
    assert found.slopes == pytest.approx([-advantage * 0.222222], abs=1e-6)
    assert found.metrics == {
        "clip_high_share": 0,
        "clip_low_share": 0,
        "ppo_kl": 0,
        "shaped_share": 1,
    }
    sampled = score(Shaped(), [math.log(1.5)], 1.0, mean=False)
    assert sampled.losses == pytest.approx([-1.2])
    assert sampled.metrics["clip_high_share"] == 1
    assert sampled.metrics["shaped_share"] == 0


def test_oreal_takes_one_mean_per_sign(make: Callable[..., Batch]) -> None:
    """3 tokens of a success and 1 of a failure, 4 in all: each side is a mean of its own."""
    batch = make([1, -1, 0], [0, 0, 1], lengths=[3, 1, 2])
    advantages = torch.zeros(batch.mask.shape)
    advantages[0, 1:] = torch.tensor([2.0, 0.0, 1.0])
    advantages[1, 1] = -1.0
    batch = replace(batch, advantages=advantages)
    weights = OREAL().weights(batch, Ctx(step=0, total_steps=1, seed=0))
    assert weights[0].tolist() == [0, 2, 2, 2]
    assert weights[1].tolist() == [0, 6, 0, 0]
    assert not weights[2].any()
    logprobs, old = torch.full(batch.mask.shape, -1.5), torch.full(batch.mask.shape, -1.5)
    losses, metrics = OREAL()(logprobs, old, advantages, batch.mask)
    total = Aggregate("token-mean")(losses * weights, batch)
    assert float(total) == pytest.approx((2 * 1.5 + 1 * 1.5) / 3 + 0.5, abs=1e-6)
    assert float(metrics["positive_share"]) == 2


def slope_of(loss: PolicyLoss, rho: float, a: float) -> float:
    """-d loss / d logp of a token, the table of each paper written out."""
    match loss:
        case Clip(low, high, dual):
            if (a > 0 and rho > 1 + high) or (a < 0 and rho < 1 - low):
                return 0.0
            return 0.0 if dual is not None and a < 0 and rho > dual else a * rho
        case GPPO(low, high):
            if a > 0 and rho > 1 + high:
                return a * (1 + high)
            return a * (1 - low) if a < 0 and rho < 1 - low else a * rho
        case CISPO(low, high):
            return a * min(max(rho, 1 - low), 1 + high)
        case Reinforce():
            return a * rho
        case OREAL(negative):
            return a if a > 0 else negative * a * rho
        case _:
            raise AssertionError(loss)


@pytest.mark.parametrize(
    "loss",
    [
        PPO,
        Clip(0.2, 0.4),
        Clip(0.2, 0.28, dual=3.0),
        GPPO(),
        TESTED_CISPO,
        CISPO(),
        Reinforce(),
        OREAL(),
    ],
)
def test_token_losses_have_the_slopes_of_their_papers(loss: PolicyLoss) -> None:
    generator = torch.Generator().manual_seed(7)
    logprobs, old, advantages = torch.randn(3, 6, 50, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 50, generator=generator) > 0.2
    logprobs.requires_grad_(True)
    loss(logprobs, old, advantages, mask)[0].masked_fill(~mask, 0.0).sum().backward()
    expected = torch.zeros_like(old)
    for row, column in mask.nonzero().tolist():
        rho = math.exp(float((logprobs - old).detach()[row, column]))
        expected[row, column] = -slope_of(loss, rho, float(advantages[row, column]))
    torch.testing.assert_close(logprobs.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "low", "high", "mean"),
    [
        (GSPO(0.1, 0.3), 0.1, 0.3, True),
        (GSPO(0.1, 0.3, level="token"), 0.1, 0.3, True),
        (SequenceRatio(0.1, 0.3, mean=True), 0.1, 0.3, True),
        (SequenceRatio(0.9, 2.0), 0.9, 2.0, False),
    ],
)
def test_row_losses_have_the_slopes_of_their_papers(
    loss: PolicyLoss, low: float, high: float, mean: bool
) -> None:
    """-A s / n over the row's n tokens (times n for the product), 0 where the row is clipped."""
    generator = torch.Generator().manual_seed(8)
    logprobs, old = torch.randn(2, 40, 9, generator=generator, dtype=torch.float64)
    mask = torch.rand(40, 9, generator=generator) > 0.4
    mask[:, 0], mask[3] = False, False
    per_row = torch.randn(40, generator=generator, dtype=torch.float64)
    advantages = per_row[:, None] * mask
    logprobs.requires_grad_(True)
    counts = mask.sum(1).clamp(min=1)
    losses = loss(logprobs, old, advantages, mask)[0].masked_fill(~mask, 0.0)
    (losses.sum(1) / counts).sum().backward()
    clipped_rows = 0
    expected = torch.zeros_like(old)
    for row in range(40):
        total = float((logprobs - old).detach()[row][mask[row]].sum())
        n, a = int(counts[row]), float(per_row[row])
        s = math.exp(total / n if mean else total)
        outside = (a > 0 and s > 1 + high) or (a < 0 and s < 1 - low)
        clipped_rows += outside
        if not outside:
            expected[row] = mask[row].double() * (-a * s / (n if mean else 1))
    assert 3 < clipped_rows < 37
    torch.testing.assert_close(logprobs.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "loss", [PPO, Clip(0.2, 0.28, dual=3.0), GSPO(0.2, 0.28), SequenceRatio(), Reinforce()]
)
def test_true_gradients_pass_finite_differences(loss: PolicyLoss) -> None:
    """The losses without a stop-gradient, in double precision."""
    generator = torch.Generator().manual_seed(9)
    logprobs, old, advantages = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(4, 6, generator=generator) > 0.3

    def total(values: torch.Tensor) -> torch.Tensor:
        return loss(values, old, advantages, mask)[0].masked_fill(~mask, 0.0).sum()

    assert torch.autograd.gradcheck(total, (logprobs.requires_grad_(True),))


@pytest.mark.parametrize(
    ("make_loss", "message"),
    [
        (lambda: GPPO(low=1.5), "gppo"),
        (lambda: GPPO(low_scale=-1), "low_scale"),
        (lambda: CISPO(high=-1), "cispo"),
        (lambda: GSPO(low=math.nan), "gspo"),
        (lambda: SequenceRatio(high=math.nan), "sequence_ratio"),
        (lambda: OREAL(negative=-0.5), "negative"),
        (lambda: Shaped(gamma=0.0), "gamma"),
    ],
)
def test_bad_options_are_told(make_loss: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_loss()
