"""REDI and DPO: which pairs, whose tokens, and the gradient of the formula written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agentrl.algo.aux import DPO, REDI
from agentrl.algo.aux.pairs import best_and_worst
from agentrl.algo.types import Batch, ForwardOutput, OwnWeights
from agentrl.errors import UserError
from agentrl.points import AuxTerm, Ctx

Make = Callable[..., Batch]
CTX = Ctx(step=0, total_steps=1, seed=0)


def told(term: AuxTerm, batch: Batch, logprobs: Tensor) -> tuple[float, Tensor]:
    """Loss and gradient by the logprobs, the weights taken from the same logprobs."""
    assert isinstance(term, OwnWeights)
    weights = term.weights(replace(batch, old_logprobs=logprobs.detach()), CTX)
    leaf = logprobs.clone().requires_grad_(True)
    output = ForwardOutput(leaf, torch.zeros_like(leaf), batch.n_tokens, weights)
    loss, _ = term(output, batch, CTX)
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad


def rows_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Rows of each pair's two sides."""
    return [
        (p.better.any(1).nonzero().flatten().tolist(), p.worse.any(1).nonzero().flatten().tolist())
        for p in best_and_worst(batch)
    ]


def test_pairs_are_the_best_and_the_worst_of_a_group(make: Make) -> None:
    """Group 0: rows 1 and 2 are one trajectory, the worst; group 1: ties; 2: equal; 3: one trains."""
    batch = make(
        [1, 0, 0, 0.5, 0, 1, 1, 0, 0.5, 0.5, 1, 0],
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3],
        lengths=[2] * 12,
        trajectories=[0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    )
    mask = batch.mask.clone()
    mask[11] = False
    batch = replace(batch, mask=mask).recount()
    assert rows_of(batch) == [([0], [1, 2]), ([5], [4])]


def test_redi_by_hand(make: Make) -> None:
    """Mean logprobs -.5 and -.3: .5 - .8 * .3 = .26."""
    batch = make([1, 0], [0, 0], lengths=[2, 3])
    logprobs = torch.tensor([[0, -0.4, -0.6, 0], [0, -0.1, -0.3, -0.5]])
    value, gradient = told(REDI(), batch, logprobs)
    assert value == pytest.approx(0.26, abs=1e-6)
    expected = torch.tensor([[0, -1 / 2, -1 / 2, 0], [0, *[0.8 / 3] * 3]])
    torch.testing.assert_close(gradient, expected)
    assert told(REDI(alpha=0.0), batch, logprobs)[0] == pytest.approx(0.5)
    assert told(REDI(coef=2.0, alpha=1.0), batch, logprobs)[0] == pytest.approx(0.4)


def test_dpo_by_hand(make: Make) -> None:
    """Gains .3 and -.2 over the reference, beta 2: h = 1, L = log(1 + exp(-1)) = .313262."""
    batch = make([0, 1], [0, 0], lengths=[1, 1])
    batch = replace(batch, ref_logprobs=torch.tensor([[0, -1.0], [0, -2.0]]))
    value, gradient = told(DPO(beta=2.0), batch, torch.tensor([[0, -1.2], [0, -1.7]]))
    assert value == pytest.approx(0.313262, abs=1e-6)
    assert gradient[:, 1].tolist() == pytest.approx([0.537883, -0.537883], abs=1e-6)


def direct_dpo(batch: Batch, logprobs: Tensor, beta: float) -> Tensor:
    """Rafailov et al., equation 7, over whole trajectories."""
    assert batch.ref_logprobs is not None
    gains = ((logprobs - batch.ref_logprobs) * batch.mask).sum(1)
    losses = [
        -F.logsigmoid(beta * (gains[better].sum() - gains[worse].sum()))
        for better, worse in rows_of(batch)
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_dpos_coefficients_give_the_gradient_of_its_formula(make: Make, beta: float) -> None:
    generator = torch.Generator().manual_seed(2)
    batch = make(
        [1, 0, 0, 0.5, 0, 1, 0.2],
        [0, 0, 0, 0, 1, 1, 1],
        lengths=[7, 3, 5, 6, 1, 4, 5],
        trajectories=[0, 1, 1, 2, 3, 4, 5],
    )
    mask = batch.mask.clone()
    mask[0, 2:4] = mask[2, 1] = False
    reference, logprobs = -torch.rand(2, *mask.shape, generator=generator)
    batch = replace(batch, mask=mask, ref_logprobs=reference).recount()
    leaf = logprobs.clone().requires_grad_(True)
    expected = direct_dpo(batch, leaf, beta)
    expected.backward()
    value, gradient = told(DPO(beta=beta), batch, logprobs)
    assert value == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-6, atol=1e-7)


def test_dpo_moves_a_pair_apart(make: Make) -> None:
    """Plain descent on the term lowers the direct loss at every step."""
    batch = make([1, 0, 0, 1], [0, 0, 1, 1], lengths=[3, 2, 4, 1])
    batch = replace(batch, ref_logprobs=torch.full(batch.mask.shape, -1.0))
    logprobs = torch.full(batch.mask.shape, -1.0)
    seen = [float(direct_dpo(batch, logprobs, 0.5))]
    for _ in range(5):
        logprobs = logprobs - told(DPO(beta=0.5), batch, logprobs)[1]
        seen.append(float(direct_dpo(batch, logprobs, 0.5)))
    assert seen[0] == pytest.approx(0.693147)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.3


def test_what_is_missing_is_told(make: Make) -> None:
    batch = make([1, 0], [0, 0])
    with pytest.raises(UserError, match="reference"):
        DPO().weights(replace(batch, old_logprobs=torch.zeros(batch.mask.shape)), CTX)
    with pytest.raises(ValueError, match="logprobs"):
        DPO().weights(replace(batch, ref_logprobs=torch.zeros(batch.mask.shape)), CTX)
    with pytest.raises(UserError, match="alpha"):
        REDI(alpha=1.5)
    with pytest.raises(UserError, match="beta"):
        DPO(beta=0.0)
