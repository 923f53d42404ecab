"""The rules of branching on the numbers of the papers, and the constants of each one turned."""

from __future__ import annotations

import math

import pytest

from agentrl.errors import UserError
from agentrl.rollout.plans.aepo import Aepo, n_roots
from agentrl.rollout.plans.arpo import Arpo
from agentrl.rollout.plans.branch_rules import (
    BalancedRule,
    BranchRule,
    CodeRule,
    FixedRule,
    PaperRule,
    mean_entropy,
)


def entropy(*p: float) -> float:
    return -math.fsum(x * math.log(x) for x in p)


@pytest.mark.parametrize(
    ("p", "wanted"),
    [((0.97, 0.01, 0.01, 0.01), 0.1210), ((0.4, 0.3, 0.2, 0.1), 0.9232), ((0.25,) * 4, 1.0)],
)
def test_entropy_over_ln_v(p: tuple[float, ...], wanted: float) -> None:
    assert mean_entropy([entropy(*p)], 20, math.log(4)) == pytest.approx(wanted, abs=1e-4)


def test_the_paper_form_means_and_the_code_form_sums_the_first_k() -> None:
    """Of 0.2 0.4 0.6 9.0 nats the first three, over ln V = 2."""
    entropies = [0.2, 0.4, 0.6, 9.0]
    assert PaperRule(k=3).measure(entropies, 2.0) == pytest.approx(0.2)
    assert CodeRule(k=3).measure(entropies, 2.0) == pytest.approx(0.6)
    assert PaperRule(k=20).measure(entropies[:2], 2.0) == pytest.approx(0.15)
    assert PaperRule().measure([], 2.0) == CodeRule().measure([], 2.0) == 0.0


@pytest.mark.parametrize(("rise", "edge"), [(0.25, 0.55), (-0.05, 0.49), (0.4, 0.58), (0.0, 0.5)])
def test_the_code_branches_iff_u_is_at_most_half_plus_a_fifth_of_the_rise(
    rise: float, edge: float
) -> None:
    rule = CodeRule()
    assert rule.branches(rise, edge - 1e-9, 0)
    assert not rule.branches(rise, edge + 1e-9, 0)


def test_the_codes_score_is_clipped_to_0_and_1() -> None:
    assert CodeRule(probability=0.0).branches(5.0, 0.9, 0), "0.9 - 1.0 is clipped to 0, and 0 <= 0"
    assert CodeRule(probability=1.0).branches(-5.0, 0.9, 0), "0.9 + 1.0 is clipped to 1, and 1 <= 1"


@pytest.mark.parametrize("rise", [-0.2, -1e-6, 0.0, 1e-6, 0.3])
def test_the_papers_rule_at_alpha_equal_tau_branches_on_any_rise(rise: float) -> None:
    assert PaperRule(alpha=0.5, beta=0.2, tau=0.5).branches(rise, 0.0, 0) == (rise > 0)


@pytest.mark.parametrize(
    ("rule", "lowest"),
    [
        (PaperRule(), 0.0),
        (PaperRule(tau=0.45), -0.25),
        (PaperRule(tau=0.45, beta=0.4), -0.125),
        (PaperRule(tau=0.45, alpha=0.55), -0.5),
        (BalancedRule(tau=0.45), -0.25),
    ],
)
def test_alpha_beta_and_tau_move_the_least_rise(rule: BranchRule, lowest: float) -> None:
    """dH > (tau - alpha) / beta."""
    assert rule.branches(lowest + 1e-9, 0.5, 0)
    assert not rule.branches(lowest - 1e-9, 0.5, 0)


@pytest.mark.parametrize(("streak", "lowest"), [(0, 0.0), (1, 0.1315789), (4, 0.625)])
def test_aepo_asks_for_more_after_each_branching_in_a_row(streak: int, lowest: float) -> None:
    """(0.5 + 0.2 dH)(1 - 0.05 l) > 0.5: at l = 1 dH > 0.0263158 / 0.2, at l = 4 dH > 0.125 / 0.2."""
    rule = BalancedRule()
    assert rule.branches(lowest + 1e-6, 0.0, streak)
    assert not rule.branches(lowest - 1e-6, 0.0, streak)
    assert BalancedRule(penalty=0.0).branches(1e-6, 0.0, streak), "without it nothing changes"


def test_aepos_factor_never_turns_negative() -> None:
    assert not BalancedRule(tau=-0.1, alpha=-5.0).branches(0.0, 0.0, 0)
    assert BalancedRule(tau=-0.1, alpha=-5.0).branches(0.0, 0.0, 40), "0 > -0.1, never 5 > -0.1"
    assert not BalancedRule(tau=0.0).branches(1.0, 0.0, 20)


def test_aepo_as_released_draws_its_base() -> None:
    rule = BalancedRule(chance=True)
    assert rule.branches(0.5, 0.41, 0), "0.41 + 0.1 > 0.5"
    assert not rule.branches(0.5, 0.39, 0)
    assert not rule.branches(0.5, 0.41, 1), "0.51 x 0.95 < 0.5"


@pytest.mark.parametrize(("u", "wanted"), [(0.29, True), (0.3, False)])
def test_the_control_is_a_coin(u: float, wanted: bool) -> None:
    assert FixedRule(0.3).branches(99.0, u, 9) is wanted


@pytest.mark.parametrize(
    ("beta", "root", "tools", "m"),
    [
        (0.5, 0.5, [0.5], 9),  # 16 / 2 + 1
        (0.5, 1.0, [0.0], 10),  # 16 x 0.6225 = 9.96
        (0.5, 0.0, [1.0], 7),  # 16 x 0.3775 = 6.04
        (0.5, 0.4, [0.2, 0.6], 9),  # the mean of the results
        (0.5, 0.9, [], 9),  # no result: even
        (8.0, 0.4, [0.2], 14),  # 16 x 0.832 = 13.3
        (8.0, 1.0, [0.0], 16),  # never more than there are
    ],
)
def test_the_probe_divides_the_budget(beta: float, root: float, tools: list[float], m: int) -> None:
    assert n_roots(16, beta, root, tools) == m


def test_roots_are_at_least_one() -> None:
    assert n_roots(16, 1e3, 0.0, [0.5]) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"form": "code", "tau": 0.5}, r"plan\.tau means nothing to form=code: leave it out"),
        ({"form": "paper", "probability": 0.5}, r"plan\.probability means nothing to form=paper"),
        ({"form": "fixed", "first_tokens": 3}, r"plan\.first_tokens means nothing to form=fixed"),
        ({"initial": 9}, r"initial is 1 to rollout\.group_size=8, not 9"),
        ({"initial": 0}, "initial is 1 to"),
        ({"copies": 0}, "copies is at least 1"),
        ({"first_tokens": 0}, "first_tokens is at least 1"),
        ({"form": "fixed", "probability": 1.5}, "probability lies in 0 to 1, not 1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Arpo(group_size=8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"penalty": -0.1}, "penalty is at least 0"),
        ({"sensitivity": -1.0}, "sensitivity is at least 0"),
        ({"initial": 17}, "initial is 1 to"),
    ],
)
def test_aepos_too(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Aepo(**options)  # type: ignore[arg-type]
