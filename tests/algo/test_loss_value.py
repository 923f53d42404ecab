"""The critic's clipped regression loss."""

from __future__ import annotations

import pytest
import torch

from agentrl.algo.value_loss import value_losses
from agentrl.errors import UserError


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss", "slope"),
    [
        (0.9, 0.5, 1.0, 0.2, 0.045, 0.0),
        (0.6, 0.5, 1.0, 0.2, 0.08, -0.4),
        (0.1, 0.5, 1.0, 0.2, 0.405, -0.9),
        (0.9, 0.5, 0.5, 0.2, 0.08, 0.4),
        (0.9, 0.5, 1.0, None, 0.005, -0.1),
    ],
)
def test_by_hand(
    value: float, old: float, target: float, clip: float | None, loss: float, slope: float
) -> None:
    """v = .9 is clipped to .7 around .5: (.7 - 1)^2 / 2 = .045, and nothing pulls it further."""
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    got = value_losses(values, torch.tensor([[old]]), torch.tensor([[target]]), clip=clip)
    got.sum().backward()
    assert got.item() == pytest.approx(loss, abs=1e-6)
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(slope, abs=1e-6)


def test_gradient_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    values, old, returns = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda v: value_losses(v, old, returns, clip=0.3).sum(), (values.requires_grad_(True),)
    )


def test_a_clip_of_zero_is_told() -> None:
    with pytest.raises(UserError, match="null"):
        value_losses(torch.zeros(1), torch.zeros(1), torch.zeros(1), clip=0.0)
