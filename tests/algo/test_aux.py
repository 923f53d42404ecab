"""Auxiliary terms: values, gradients and whose tokens they count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agentrl.algo.aux import KL, Entropy, Supervised, kl_estimate
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
