"""Outcome advantages against the hand-computed vectors of the methods' papers and code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algo.advantage import PRESETS, Outcome, estimate, whitened
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx

CTX = Ctx(step=0, total_steps=1, seed=0)
Make = Callable[..., Batch]


def firsts(outcome: Outcome, batch: Batch) -> list[float]:
    """Each row's advantage at its first trained token."""
    return outcome(batch, CTX)[:, 1].tolist()


@pytest.mark.parametrize(
    ("outcome", "rewards", "expected"),
    [
        (PRESETS["grpo"], [1, 0, 0, 1], [0.86602, -0.86602, -0.86602, 0.86602]),
        (Outcome(ddof=0), [1, 0, 0, 1], [1, -1, -1, 1]),
        (PRESETS["dr_grpo"], [1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
        (PRESETS["rloo"], [1, 0, 0, 1], [0.66667, -0.66667, -0.66667, 0.66667]),
        (PRESETS["grpo"], [1, 0, 0, 0], [1.5, -0.5, -0.5, -0.5]),
        (PRESETS["dr_grpo"], [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        (PRESETS["rloo"], [1, 0, 0, 0], [1, -0.33333, -0.33333, -0.33333]),
        (PRESETS["rloo"], [1, -1, -1, 1], [1.33333, -1.33333, -1.33333, 1.33333]),
        (
            Outcome(ddof=0),
            [1, 0, 0.2, 0.9, 0.1, 0.4, 0.8, 0.2],
            [1.4969, -1.2247, -0.6804, 1.2247, -0.9526, -0.1361, 0.9526, -0.6804],
        ),
        (
            Outcome(),
            [1, 0, 0.2, 0.9, 0.1, 0.4, 0.8, 0.2],
            [1.4002, -1.1456, -0.6365, 1.1456, -0.8911, -0.1273, 0.8911, -0.6365],
        ),
        # The shaped rewards of OTC's own example.
        (Outcome(), [1, 0.70711, 0, 0.86603], [0.8012, 0.1433, -1.4448, 0.5002]),
    ],
)
def test_one_group(
    make: Make, outcome: Outcome, rewards: list[float], expected: list[float]
) -> None:
    assert firsts(outcome, make(rewards, [0] * len(rewards))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (PRESETS["lite_ppo"], [1, -1, 0, 0]),
        (PRESETS["reinforce_pp_baseline"], [1.22474, -1.22474, 0, 0]),
        (Outcome(center="none", scale="none", whiten=True), [0.5, -1.5, 0.5, 0.5]),
    ],
)
def test_two_groups(make: Make, outcome: Outcome, expected: list[float]) -> None:
    """A = [1, 0], B = [1, 1], one token each."""
    batch = make([1, 0, 1, 1], [0, 0, 1, 1])
    assert firsts(outcome, batch) == pytest.approx(expected, abs=1e-4)


def test_opo_weighs_by_length(make: Make) -> None:
    """r = [1, 0], L = [10, 30]: baseline 10 / 40."""
    batch = make([1, 0], [0, 0], lengths=[10, 30])
    assert firsts(PRESETS["opo"], batch) == pytest.approx([0.75, -0.25])


def test_statistics_are_per_trajectory_not_per_row(make: Make) -> None:
    """The first trajectory has three rows; counted by row its mean would be 0.75, not 0.5."""
    split = make([1, 1, 1, 0], [0, 0, 0, 0], trajectories=[0, 0, 0, 1])
    assert firsts(PRESETS["dr_grpo"], split) == pytest.approx([0.5, 0.5, 0.5, -0.5])
    assert firsts(PRESETS["rloo"], split) == pytest.approx([1, 1, 1, -1])
    expected = firsts(PRESETS["grpo"], make([1, 0], [0, 0]))
    assert firsts(PRESETS["grpo"], split) == pytest.approx([expected[0]] * 3 + [expected[1]])


def test_excluded_rows_count_in_statistics_and_get_zero(make: Make) -> None:
    batch = make([1, 0, 0, 0], [0, 0, 0, 0])
    mask = batch.mask.clone()
    mask[3] = False
    batch = replace(batch, mask=mask, n_tokens=3, n_sequences=3)
    assert firsts(PRESETS["grpo"], batch) == pytest.approx([1.5, -0.5, -0.5, 0], abs=1e-4)


@pytest.mark.parametrize("preset", ["grpo", "dr_grpo", "rloo", "opo", "lite_ppo"])
@given(
    reward=st.floats(-10, 10, width=32),
    n=st.integers(2, 7),
    lengths=st.lists(st.integers(1, 9), min_size=7, max_size=7),
)
def test_equal_rewards_give_exactly_zero(
    preset: str, reward: float, n: int, lengths: list[int]
) -> None:
    rewards = torch.full((n,), reward).double()
    groups = torch.zeros(n, dtype=torch.int64)
    scalars = PRESETS[preset].scalars(rewards, groups, torch.tensor(lengths[:n]).double())
    assert scalars.tolist() == [0.0] * n


@pytest.mark.parametrize("preset", ["grpo", "dr_grpo", "rloo", "opo"])
def test_a_group_of_one_keeps_its_raw_reward(make: Make, preset: str) -> None:
    batch = make([0.5, 1, 0], [0, 1, 1], lengths=[2, 2, 2])
    assert firsts(PRESETS[preset], batch)[0] == pytest.approx(0.5, abs=1e-5)
    assert estimate(PRESETS[preset], batch, CTX).advantages.isfinite().all()


@given(st.permutations(range(6)))
def test_permuting_siblings_permutes_advantages(order: list[int]) -> None:
    rewards = torch.tensor([0.0, 1.0, 0.25, 1.0, 0.0, 0.5]).double()
    lengths = torch.tensor([3, 1, 4, 1, 5, 9]).double()
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    for outcome in PRESETS.values():
        plain = outcome.scalars(rewards, groups, lengths)
        mixed = outcome.scalars(rewards[order], groups[order], lengths[order])
        torch.testing.assert_close(mixed, plain[order], rtol=0, atol=1e-12)


def test_flipping_a_group_negates_it(make: Make) -> None:
    plain = firsts(PRESETS["grpo"], make([1, 0, 0, 1, 0], [0] * 5))
    flipped = firsts(PRESETS["grpo"], make([0, 1, 1, 0, 1], [0] * 5))
    assert flipped == pytest.approx([-a for a in plain], abs=1e-6)


def test_whitening_is_over_masked_tokens_only() -> None:
    values = torch.tensor([[1.0, 2.0, 99.0], [4.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    got = whitened(values, mask)
    kept = torch.tensor([1.0, 2.0, 4.0])
    expected = (kept - kept.mean()) / kept.std(correction=1)
    torch.testing.assert_close(got[mask], expected, rtol=0, atol=1e-6)
    assert (got[~mask] == 0).all()


def test_estimate_weighs_and_checks(make: Make) -> None:
    batch = replace(make([1, 0], [0, 0]), weights=torch.tensor([2.0, 0.5]))
    advantages = estimate(PRESETS["dr_grpo"], batch, CTX).advantages
    assert advantages[:, 1].tolist() == pytest.approx([1.0, -0.25])
    with pytest.raises(ValueError, match="shape"):
        estimate(lambda b, c: torch.zeros(1), batch, CTX)
    with pytest.raises(ValueError, match="off the mask"):
        estimate(lambda b, c: torch.ones(b.mask.shape), batch, CTX)
    with pytest.raises(ValueError, match="finite"):
        estimate(lambda b, c: b.mask * torch.nan, batch, CTX)
    with pytest.raises(UserError, match="ddof"):
        Outcome(ddof=2)
