"""The shift, the clipped surrogate and its gradient, the five aggregations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from agentrl.algo.head import head_scores
from agentrl.algo.loss import Aggregate, Clip, predictors, token_logprobs
from agentrl.algo.types import Batch
from agentrl.errors import UserError

Make = Callable[..., Batch]
DAPO = Clip(low=0.2, high=0.28)
DUAL = Clip(low=0.2, high=0.28, dual=3.0)


def surrogate(clip: Clip, ratio: float, advantage: float) -> tuple[float, float, dict[str, float]]:
    """Value, d loss / d logprob and metrics of one token."""
    logprobs = torch.tensor([[0.0, float(torch.tensor(ratio).log())]], requires_grad=True)
    old, mask = torch.zeros(1, 2), torch.tensor([[False, True]])
    losses, metrics = clip(logprobs, old, torch.tensor([[0.0, advantage]]), mask)
    losses[mask].sum().backward()
    assert logprobs.grad is not None
    return (
        losses[0, 1].item(),
        logprobs.grad[0, 1].item(),
        {name: float(value) for name, value in metrics.items()},
    )


@pytest.mark.parametrize(
    ("clip", "ratio", "advantage", "value", "gradient"),
    [
        (DAPO, 1.5, 1, -1.28, 0),
        (DAPO, 0.5, 1, -0.5, -0.5),
        (DAPO, 0.5, -1, 0.8, 0),
        (DAPO, 1.5, -1, 1.5, 1.5),
        (DAPO, 5, -1, 5, 5),
        (DUAL, 5, -1, 3, 0),
        (DUAL, 5, 1, -1.28, 0),
        (DAPO, 1, 1, -1, -1),
        (DAPO, 1, -1, 1, 1),
    ],
)
def test_surrogate(
    clip: Clip, ratio: float, advantage: float, value: float, gradient: float
) -> None:
    got, slope, _ = surrogate(clip, ratio, advantage)
    assert got == pytest.approx(value, abs=1e-4)
    assert slope == pytest.approx(gradient, abs=1e-4)


def test_metrics_are_sums_over_masked_tokens() -> None:
    assert surrogate(DAPO, 1.5, 1)[2]["clip_high_share"] == 1
    assert surrogate(DAPO, 1.5, -1)[2] == pytest.approx(
        {"clip_high_share": 0, "clip_low_share": 0, "ppo_kl": -0.405465}
    )
    assert surrogate(DAPO, 0.5, -1)[2]["clip_low_share"] == 1
    assert surrogate(DUAL, 5, -1)[2]["dual_share"] == 1
    losses, metrics = DAPO(
        torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    )
    assert losses.shape == (2, 3)
    assert all(float(value) == 0 for value in metrics.values())


def test_extreme_ratios_stay_finite() -> None:
    logprobs = torch.tensor([[-1000.0, 0.0]], requires_grad=True)
    losses, _ = DAPO(
        logprobs, torch.tensor([[0.0, -1000.0]]), -torch.ones(1, 2), torch.ones(1, 2) > 0
    )
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"low": 1.5}, {"high": -0.1}, {"dual": 1.1}])
def test_bad_bounds_are_told(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="clip"):
        Clip(**options)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (Aggregate("token-mean"), 1.6),
        (Aggregate("seq-mean-token-sum"), 4.0),
        (Aggregate("seq-mean-token-mean"), 2.5),
        (Aggregate("seq-mean-token-sum-norm", length=8), 0.5),
        (Aggregate("token-sum"), 8.0),
    ],
)
def test_aggregation(make: Make, aggregate: Aggregate, expected: float) -> None:
    """s1 = [1, 1, 1, 1], s2 = [4]; also row by row, and with an infinite loss off the mask."""
    batch = make([0, 0], [0, 0], lengths=[4, 1])
    losses = torch.full(batch.mask.shape, torch.inf)
    losses[0, 1:] = 1
    losses[1, 1] = 4
    assert float(aggregate(losses, batch)) == pytest.approx(expected)
    parts = [batch.select(torch.tensor([row])) for row in (1, 0)]
    shares = [
        float(aggregate(losses[[row], : part.mask.shape[1]], part))
        for row, part in zip((1, 0), parts, strict=True)
    ]
    assert sum(shares) == pytest.approx(expected)


def test_a_sequence_is_a_trajectory(make: Make) -> None:
    """Two rows of one trajectory (2 and 2 tokens of loss 1) weigh as its one row of 4 would."""
    split = make([0, 0, 0], [0, 0, 0], lengths=[2, 2, 1], trajectories=[0, 0, 1])
    losses = torch.ones(split.mask.shape)
    losses[2] = 4
    assert split.n_sequences == 2
    assert float(Aggregate("seq-mean-token-mean")(losses, split)) == pytest.approx(2.5)
    assert float(Aggregate("seq-mean-token-sum")(losses, split)) == pytest.approx(4.0)


def test_fully_masked_sequences_do_not_count(make: Make) -> None:
    batch = make([0, 0], [0, 1], lengths=[2, 2])
    mask = batch.mask.clone()
    mask[1] = False
    batch = replace(batch, mask=mask, trained=torch.tensor([2, 0])).recount()
    assert (batch.n_tokens, batch.n_sequences) == (2, 1)
    losses = torch.full(mask.shape, 3.0)
    assert float(Aggregate("seq-mean-token-mean")(losses, batch)) == pytest.approx(3.0)


def test_length_belongs_to_the_norm_mode() -> None:
    with pytest.raises(UserError, match=r"aggregate\.length"):
        Aggregate("seq-mean-token-sum-norm")
    with pytest.raises(UserError, match=r"aggregate\.length"):
        Aggregate("token-mean", length=3)


def test_token_logprobs_equal_log_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 7, (2, 5))
    temperatures = torch.rand(2, 5) + 0.5
    got = token_logprobs(logits, ids, temperatures)
    log_p = F.log_softmax(logits[:, :-1] / temperatures[:, 1:, None].double(), -1)
    expected = log_p.gather(-1, ids[:, 1:, None])[..., 0].float()
    torch.testing.assert_close(got.logprobs[:, 1:], expected, rtol=0, atol=1e-6)
    entropy = -(log_p.exp() * log_p).sum(-1).float()
    torch.testing.assert_close(got.entropies[:, 1:], entropy, rtol=0, atol=1e-6)
    assert (got.logprobs[:, 0] == 0).all()


def test_predictors_take_the_state_before() -> None:
    """Token t is predicted by state t - 1: the only place where that is written down."""
    states = torch.arange(8.0).reshape(2, 4, 1)
    tokens = torch.tensor([[False, True, False, True], [False, False, True, False]])
    assert predictors(states, tokens)[:, 0].tolist() == [0.0, 2.0, 5.0]
    assert predictors(states[:, :-1], tokens)[:, 0].tolist() == [0.0, 2.0, 5.0]


@pytest.mark.parametrize("chunk_elements", [1, 40, 10_000])
@pytest.mark.parametrize("with_bias", [False, True])
def test_head_scores_equal_autograd(chunk_elements: int, with_bias: bool) -> None:
    """Values and gradients, entropies included, for one chunk and for many."""
    torch.manual_seed(1)
    n, width, vocabulary = 9, 5, 13
    hidden = torch.randn(n, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(vocabulary, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.randint(0, vocabulary, (n,))
    temperatures = torch.rand(n, dtype=torch.float64) + 0.5
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    mix, blend = torch.randn(2, n, dtype=torch.float64)

    scores = head_scores(
        hidden,
        weight,
        bias,
        targets,
        temperatures,
        dtype=torch.float64,
        chunk_elements=chunk_elements,
    )
    got = torch.autograd.grad((scores.logprobs * mix + scores.entropies * blend).sum(), inputs)

    logits = hidden @ weight.T + (0 if bias is None else bias)
    log_p = F.log_softmax(logits / temperatures[:, None], -1)
    logprobs = log_p.gather(-1, targets[:, None])[:, 0]
    entropies = -(log_p.exp() * log_p).sum(-1)
    expected = torch.autograd.grad((logprobs * mix + entropies * blend).sum(), inputs)
    torch.testing.assert_close(scores.logprobs, logprobs)
    torch.testing.assert_close(scores.entropies, entropies)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_head_scores_of_nothing() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    hidden = torch.zeros(0, 3, requires_grad=True)
    scores = head_scores(hidden, weight, None, torch.zeros(0, dtype=torch.int64), torch.ones(0))
    scores.logprobs.sum().backward()
    assert weight.grad is None or not weight.grad.any()
