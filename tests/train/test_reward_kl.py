"""The KL penalty inside the reward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from agentrl.algo.batch import make_batch
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.train.reward_kl import COEF, KL, RewardKL

CTX = Ctx(step=1, total_steps=10, seed=0)


@pytest.fixture
def batch(hand: Any) -> Batch:
    """Two rows of one prompt and two policy tokens; log-ratios to the reference .2, .4 and -.1, .3."""
    of = hand.task()
    group = replace(
        hand.group("t"), trajectories=tuple(hand.trajectory(of, i, 1.0, reward=1.0) for i in (0, 1))
    )
    made = make_batch([group], pad_id=0)
    old = torch.tensor([[0.0, -1.0, -1.0], [0.0, -2.0, -2.0]])
    ref = torch.tensor([[0.0, -1.2, -1.4], [0.0, -1.9, -2.3]])
    return replace(made, old_logprobs=old, ref_logprobs=ref)


def test_each_token_pays_for_its_own_ratio(batch: Batch) -> None:
    penalised, metrics = RewardKL(coef=0.5)(batch, CTX)
    assert penalised.token_rewards is not None
    expected = torch.tensor([[0.0, -0.1, -0.2], [0.0, 0.05, -0.15]])
    torch.testing.assert_close(penalised.token_rewards, expected)
    assert metrics == {COEF: 0.5, KL: pytest.approx(0.2)}


def test_it_adds_to_what_was_earned_and_ignores_other_tokens(batch: Batch) -> None:
    batch = replace(batch, token_rewards=torch.full((2, 3), 1.0), mask=batch.mask.clone())
    batch.mask[1, 2] = False
    penalised, metrics = RewardKL(coef=0.5)(replace(batch, n_tokens=3), CTX)
    expected = torch.tensor([[1.0, 0.9, 0.8], [1.0, 1.05, 1.0]])
    torch.testing.assert_close(penalised.token_rewards, expected)
    assert metrics[KL] == pytest.approx((0.2 + 0.4 - 0.1) / 3)


def test_the_controller_steers_towards_its_target(batch: Batch) -> None:
    """beta (1 + clip(kl / target - 1, -.2, .2) n / horizon) with n = 2 and horizon 100."""
    steered = RewardKL(coef=0.5, target=0.1, horizon=100.0)
    assert steered(batch, CTX)[1][COEF] == 0.5  # no step before
    high = replace(CTX, metrics={COEF: 0.3, KL: 0.11})
    assert steered(batch, high)[1][COEF] == pytest.approx(0.3 * (1 + 0.1 * 0.02))
    low = replace(CTX, metrics={COEF: 0.3, KL: 0.01})
    assert steered(batch, low)[1][COEF] == pytest.approx(0.3 * (1 - 0.2 * 0.02))
    assert RewardKL(coef=0.5)(batch, high)[1][COEF] == 0.5


def test_without_a_reference_is_told(batch: Batch) -> None:
    with pytest.raises(UserError, match=r"learner\.reference=true"):
        RewardKL(coef=0.5)(replace(batch, ref_logprobs=None), CTX)
