"""AEPO's advantage and clip: by hand, and the clip against its formula under autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from agentrl.algo.advantage import GRPO, Outcome
from agentrl.algo.batch import make_batch
from agentrl.algo.entropy_aware import EntropyAware
from agentrl.algo.loss import Clip
from agentrl.algo.losses import balanced_clip
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=1, seed=0)
Make = Callable[..., Batch]
RAW = Outcome(center="none", scale="none")


def with_entropies(batch: Batch, rows: list[list[float]]) -> Batch:
    """Entropies of the trained tokens; nan everywhere else."""
    entropies = torch.full(batch.mask.shape, torch.nan)
    for row, values in enumerate(rows):
        entropies[row, 1 : 1 + len(values)] = torch.tensor(values)
    return replace(batch, entropies=entropies)


def test_by_hand(make: Make) -> None:
    """H = 1 2 3 | 2: mean 2, sample deviation sqrt(2/3) = 0.8165, z = -1.2247 0 1.2247 | 0.

    Rewards 1 and -1, neither centred nor scaled, times 1 + 0.2 z.
    """
    batch = with_entropies(make([1, -1], [0, 0], [3, 1]), [[1, 2, 3], [2]])
    got = EntropyAware(base=RAW)(batch, CTX)
    wanted = [[0, 0.75505, 1, 1.24495], [0, -1, 0, 0]]
    torch.testing.assert_close(got, torch.tensor(wanted), rtol=0, atol=1e-5)
    twice = EntropyAware(weight=0.4, base=RAW)(batch, CTX)
    torch.testing.assert_close(twice - RAW(batch, CTX), 2 * (got - RAW(batch, CTX)))


def test_weights_average_one_and_zero_weight_is_the_base(make: Make) -> None:
    torch.manual_seed(1)
    batch = make([1, 0, 0, 1], [0, 0, 1, 1], [5, 3, 4, 2])
    batch = with_entropies(batch, torch.rand(4, 5).tolist())
    batch = replace(batch, entropies=batch.entropies.masked_fill(~batch.mask, torch.nan))  # type: ignore[union-attr]
    assert torch.equal(EntropyAware(weight=0.0)(batch, CTX), GRPO(batch, CTX))
    ones = replace(batch, rewards=torch.ones(4))
    factors = EntropyAware(weight=0.7, base=RAW)(ones, CTX)[batch.mask]
    assert float(factors.mean()) == pytest.approx(1.0, abs=1e-6)


def test_a_token_without_an_entropy_keeps_its_advantage_and_stays_out_of_the_mean(
    make: Make,
) -> None:
    batch = with_entropies(make([1], [0], [4]), [[1, 2, 3, torch.nan]])
    got = EntropyAware(base=RAW)(batch, CTX)[0, 1:]
    torch.testing.assert_close(got, torch.tensor([0.8, 1.0, 1.2, 1.0]), rtol=0, atol=1e-6)


def test_equal_entropies_change_nothing(make: Make) -> None:
    batch = with_entropies(make([1, 0], [0, 0], [2, 2]), [[0.5, 0.5], [0.5, 0.5]])
    assert torch.equal(EntropyAware()(batch, CTX), GRPO(batch, CTX))


def test_rollouts_without_entropies_are_refused(make: Make) -> None:
    with pytest.raises(UserError, match=r"set rollout\.plan\.name=aepo"):
        EntropyAware()(make([1, 0], [0, 0]), CTX)


def member(sibling: int, *, entropies: list[float] | None) -> Trajectory:
    row = Transcript().append(
        Segment(Origin.PROMPT, [1, 2]),
        Segment(Origin.MODEL, [3, 4], [-1.0, -1.0], version=0, entropies=entropies),
        Segment(Origin.OBSERVATION, [5]),
        Segment(Origin.FORCED, [6], [-0.7]),
    )
    return Trajectory(
        f"0/t/{sibling}", Task("t", "?", "1"), sibling, (row,), (), StopReason.TERMINATED,
        rewards={"env": 1.0}, reward=1.0,
    )  # fmt: skip


def test_a_batch_carries_what_the_engine_recorded_and_nothing_else() -> None:
    task = Task("t", "?", "1")
    batch = make_batch([Group(task, (member(0, entropies=[0.3, 0.4]), member(1, entropies=None)))],
                       pad_id=0)  # fmt: skip
    assert batch.entropies is not None
    nan = float("nan")
    wanted = [[nan, nan, 0.3, 0.4, nan, nan], [nan] * 6]
    np.testing.assert_allclose(batch.entropies.numpy(), np.array(wanted, np.float32))
    none = make_batch([Group(task, (member(0, entropies=None),))], pad_id=0)
    assert none.entropies is None


def by_formula(logprobs: Tensor, old: Tensor, a: Tensor, low: float, high: float) -> Tensor:
    """-min(rho A, clip(rho, 1 - low, (1 + high) / sg(rho) rho) A), as it is written."""
    rho = (logprobs - old).exp()
    upper = (1 + high) / rho.detach() * rho
    bounded = torch.where(rho > 1 + high, upper, rho.clamp(min=1 - low))
    # At rho A < bounded A the first is taken; ties cannot have a clipped gradient.
    return -torch.where(rho * a <= bounded * a, rho * a, bounded * a)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.4)])
def test_value_and_slope_are_the_formulas(low: float, high: float) -> None:
    ratios = torch.tensor([0.3, 0.79, 0.95, 1.0, 1.15, 1.3, 1.6, 4.0])
    a = torch.tensor([1.3, -0.7])[:, None].expand(2, 8)
    old = torch.full((2, 8), -1.0)
    mask = torch.ones(2, 8, dtype=torch.bool)
    slopes: list[Tensor] = []
    values: list[Tensor] = []
    for loss in (
        lambda x: by_formula(x, old, a, low, high),
        lambda x: balanced_clip(low=low, high=high)(x, old, a, mask)[0],
    ):
        logprobs = (old + ratios.log()).requires_grad_()
        found = loss(logprobs)
        (slope,) = torch.autograd.grad(found.sum(), logprobs)
        slopes.append(slope)
        values.append(found.detach())
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(slopes[1], slopes[0])
    plain, _ = Clip(low, high)(old + ratios.log(), old, a, mask)
    torch.testing.assert_close(values[1], plain)
    assert slopes[1][0, -1] == pytest.approx(-1.3 * (1 + high)), "clipped above, still taught"
    assert slopes[1][1, 0] == 0, "clipped below, not"
