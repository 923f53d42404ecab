"""Estimators against published tables, enumeration and hand-worked numbers."""

from __future__ import annotations

from itertools import combinations
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.evaluate.statistics import mean_of_tasks, pass_at_k, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_newcombe(successes: int, trials: int, low: float, high: float):
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    found = wilson(successes, trials)
    assert found.value == successes / trials
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_the_score_equation(case: tuple[int, int]):
    """A bound q inside (0, 1) is where (p - q)^2 = z^2 q (1 - q) / n."""
    successes, trials = case
    found = wilson(successes, trials)
    assert 0 <= found.low <= found.value <= found.high <= 1
    for q in (found.low, found.high):
        if 0 < q < 1:
            score = (found.value - q) ** 2
            assert score == pytest.approx(1.959963984540054**2 * q * (1 - q) / trials, abs=1e-9)


@given(st.integers(0, 50))
def test_wilson_is_symmetric(successes: int):
    one, other = wilson(successes, 50), wilson(50 - successes, 50)
    assert one.low == pytest.approx(1 - other.high)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses(successes: int, trials: int):
    with pytest.raises(ValueError, match="successes in"):
        wilson(successes, trials)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_against_enumeration(n: int):
    """The share of all subsets of k samples that hold a correct one."""
    for correct in range(n + 1):
        marks = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            subsets = list(combinations(marks, k))
            expected = sum(any(s) for s in subsets) / len(subsets)
            assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_by_hand():
    """5 samples, 2 correct: 1 - C(3,2)/C(5,2) = 1 - 3/10."""
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 1), (4, 1, 0)])
def test_pass_at_k_refuses(n: int, c: int, k: int):
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(n, c, k)


def test_mean_of_tasks_by_hand():
    """Mean 0.5, deviations 0, 0.25, -0.25, 0: s = sqrt(0.125 / 3), half width 1.96 s / 2."""
    found = mean_of_tasks([0.5, 0.75, 0.25, 0.5])
    half = 1.959963984540054 * sqrt(0.125 / 3) / 2
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert half == pytest.approx(0.2000, abs=1e-4)


def test_equal_tasks_are_not_certainty():
    """Wilson with n tasks all right: low = n / (n + z^2); 1 task 1/4.8415, 20 tasks 20/23.8415."""
    assert mean_of_tasks([1.0]) == pytest.approx((1.0, 0.20655, 1.0), abs=1e-5)
    assert mean_of_tasks([1.0] * 20) == pytest.approx((1.0, 0.83887, 1.0), abs=1e-5)
    with pytest.raises(ValueError, match="no task"):
        mean_of_tasks([])
