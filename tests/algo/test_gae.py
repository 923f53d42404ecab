"""GAE and reward-to-go: the hand-computed vectors, a plain recursion, and what they reduce to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agentrl.algo.advantage import Outcome, estimate, identity
from agentrl.algo.gae import GAE
from agentrl.algo.reward_to_go import RewardToGo
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx, needs_of

CTX = Ctx(step=0, total_steps=1, seed=0)
Make = Callable[..., Batch]


def with_rows(batch: Batch, **per_token: list[list[float]]) -> Batch:
    """Per-token numbers of the trained columns; column 0 is the prompt."""
    width = batch.mask.shape[1]
    made = {
        name: torch.tensor([([0.0, *row] + [0.0] * width)[:width] for row in rows])
        for name, rows in per_token.items()
    }
    return replace(batch, **made)


@pytest.mark.parametrize(("lam", "first"), [(1.0, 0.5), (0.95, 0.46)])
def test_observation_in_the_middle(make: Make, observe: Make, lam: float, first: float) -> None:
    """R = [0, 0, 1], V = [.5, 9, .2], m = [1, 0, 1], gamma 1: A2 = .8, A0 = .5 or .46."""
    batch = observe(make([1], [0], [3]), [(0, 2)])
    batch = with_rows(batch, values=[[0.5, 9.0, 0.2]])
    found = GAE(lam=lam, whiten=False)(batch, CTX)
    assert found.advantages[0].tolist() == pytest.approx([0, first, 0, 0.8], abs=1e-6)
    assert found.returns is not None
    if lam == 1:
        assert found.returns[0].tolist() == pytest.approx([0, 1, 0, 1], abs=1e-6)


def test_discount_and_token_rewards(make: Make) -> None:
    """R = [.1, -.2, 1 + .3], V = [.5, .4, .2], gamma .9, lam .5, from the last token backwards.

    delta2 = 1.3 - .2 = 1.1; delta1 = -.2 + .18 - .4 = -.42; delta0 = .1 + .36 - .5 = -.04
    A1 = -.42 + .45 * 1.1 = .075; A0 = -.04 + .45 * .075 = -.00625
    """
    batch = with_rows(
        make([1], [0], [3]), values=[[0.5, 0.4, 0.2]], token_rewards=[[0.1, -0.2, 0.3]]
    )
    found = GAE(gamma=0.9, lam=0.5, whiten=False)(batch, CTX)
    assert found.advantages[0, 1:].tolist() == pytest.approx([-0.00625, 0.075, 1.1], abs=1e-6)
    assert found.returns is not None
    assert found.returns[0, 1:].tolist() == pytest.approx([0.49375, 0.475, 1.3], abs=1e-6)
    plain = RewardToGo(gamma=0.9, whiten=False)(batch, CTX)
    assert plain[0, 1:].tolist() == pytest.approx([0.973, 0.97, 1.3], abs=1e-6)


def test_a_reward_at_an_observation_is_the_actions_before_it(make: Make, observe: Make) -> None:
    """The tool's answer at column 2 earns .5: the action at column 1 did it."""
    batch = observe(make([1], [0], [3]), [(0, 2)])
    batch = with_rows(batch, token_rewards=[[0.25, 0.5, 0]], values=[[0, 0, 0]])
    assert RewardToGo(gamma=0.5, whiten=False)(batch, CTX)[0].tolist() == [0, 1.25, 0, 1]
    assert GAE(0.5, 1.0, whiten=False)(batch, CTX).advantages[0].tolist() == [0, 1.25, 0, 1]


def test_rows_of_one_trajectory_are_one_episode(make: Make) -> None:
    """Two rows of 2 and 1 tokens equal one row of 3, whatever stands between them."""
    split = make([1, 0.5, 1], [0, 0, 0], [2, 2, 1], trajectories=[0, 1, 0])
    split = with_rows(split, values=[[0.5, 0.4], [0.3, 0.1], [0.2]])
    whole = with_rows(make([1], [0], [3]), values=[[0.5, 0.4, 0.2]])
    one = GAE(0.9, 0.8, whiten=False)(whole, CTX)
    two = GAE(0.9, 0.8, whiten=False)(split, CTX)
    got = [*two.advantages[0, 1:].tolist(), two.advantages[2, 1].item()]
    assert got == pytest.approx(one.advantages[0, 1:].tolist(), abs=1e-6)
    alone = with_rows(make([0.5], [0], [2]), values=[[0.3, 0.1]])
    other = GAE(0.9, 0.8, whiten=False)(alone, CTX)
    torch.testing.assert_close(two.advantages[1, 1:], other.advantages[0, 1:])


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_recursion_token_by_token(make: Make, observe: Make, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (6,), generator=rng).tolist()
    batch = make(torch.rand(6, generator=rng).tolist(), [0] * 6, lengths)
    holes = [(r, c) for r, n in enumerate(lengths) for c in range(2, n) if (r + c + seed) % 3 == 0]
    batch = observe(batch, holes)
    values, rewards = torch.rand(2, *batch.mask.shape, generator=rng).double()
    batch = replace(batch, values=values.float(), token_rewards=(rewards * batch.mask).float())
    gamma, lam = 0.97, 0.9
    found = GAE(gamma, lam, whiten=False)(batch, CTX)
    assert found.returns is not None
    for row in range(6):
        following = running = 0.0
        outcome = float(batch.rewards[row])
        for column in range(batch.mask.shape[1] - 1, -1, -1):
            if not batch.mask[row, column]:
                continue
            own = float(batch.values[row, column])  # type: ignore[index]
            earned = float(batch.token_rewards[row, column]) + outcome  # type: ignore[index]
            outcome = 0.0
            running = earned + gamma * following - own + gamma * lam * running
            following = own
            assert float(found.advantages[row, column]) == pytest.approx(running, abs=1e-5)
            assert float(found.returns[row, column]) == pytest.approx(running + own, abs=1e-5)


def test_whitening_is_over_all_tokens_and_leaves_the_returns(make: Make) -> None:
    batch = with_rows(make([1, 0], [0, 0], [2, 1]), values=[[0.5, 0.25], [0.75]])
    plain, white = GAE(whiten=False)(batch, CTX), GAE()(batch, CTX)
    kept = plain.advantages[batch.mask]
    expected = (kept - kept.mean()) / kept.std(correction=1)
    torch.testing.assert_close(white.advantages[batch.mask], expected)
    assert white.returns is not None
    assert torch.equal(white.returns, plain.returns)
    assert white.returns[batch.mask].tolist() == [1, 1, 0]


def test_without_a_critic_it_says_so(make: Make) -> None:
    assert needs_of(GAE()) == {"critic"}
    with pytest.raises(UserError, match="needs a critic"):
        GAE()(make([1], [0]), CTX)
    with pytest.raises(UserError, match="lam lies in"):
        GAE(lam=1.5)
    with pytest.raises(UserError, match="gamma lies in"):
        RewardToGo(gamma=-0.1)


def test_reinforce_pp(make: Make) -> None:
    """A = [1, 0], B = [1, 1], one token each: [.5, -1.5, .5, .5]."""
    batch = make([1, 0, 1, 1], [0, 0, 1, 1])
    got = RewardToGo()(batch, CTX)[:, 1].tolist()
    assert got == pytest.approx([0.5, -1.5, 0.5, 0.5], abs=1e-4)


def test_what_they_reduce_to(make: Make, observe: Make) -> None:
    """Reward-to-go without a discount is the outcome; GAE with lam 1 is that minus the value."""
    batch = observe(make([1, 0.25, -1], [0, 0, 1], [3, 1, 4]), [(0, 2), (2, 3)])
    plain = identity()(batch, CTX)
    assert torch.equal(RewardToGo(whiten=False)(batch, CTX), plain)
    whitened = Outcome(center="none", scale="none", whiten=True)(batch, CTX)
    assert torch.equal(RewardToGo()(batch, CTX), whitened)
    values = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(0))
    found = GAE(whiten=False)(replace(batch, values=values), CTX)
    torch.testing.assert_close(found.advantages, (plain - values) * batch.mask)


def test_estimate_hands_over_the_returns(make: Make) -> None:
    """The rows' weights multiply advantages, never the critic's targets."""
    batch = with_rows(make([1, 0], [0, 0]), values=[[0.25], [0.5]])
    batch = replace(batch, weights=torch.tensor([2.0, 1.0]))
    found = estimate(GAE(whiten=False), batch, CTX)
    assert found.advantages is not None
    assert found.returns is not None
    assert found.advantages[:, 1].tolist() == [1.5, -0.5]
    assert found.returns[:, 1].tolist() == [1, 0]
