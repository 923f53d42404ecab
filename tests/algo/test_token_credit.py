"""CAPO, OREAL, DeepSearch, GDPO and Pass@k: numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agentrl.algo.advantage import PRESETS, Outcome, whitened
from agentrl.algo.capo import CAPO
from agentrl.algo.deepsearch import DeepSearch
from agentrl.algo.gdpo import GDPO
from agentrl.algo.oreal import OREAL, importance
from agentrl.algo.pass_at_k import PassAtK
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx

CTX = Ctx(step=0, total_steps=1, seed=0)
Make = Callable[..., Batch]


def scored(batch: Batch, rows: list[list[float]]) -> Batch:
    """Token rewards of the trained columns."""
    width = batch.mask.shape[1]
    made = torch.tensor([([0.0, *row] + [0.0] * width)[:width] for row in rows])
    return replace(batch, token_rewards=made)


def test_capo_normalises_over_all_tokens_of_the_group(make: Make) -> None:
    """C = 2, P = 1: right with one wrong step [2, 2, 1], wrong with one [0, -1].

    Mean .8; squared distances 1.44 + 1.44 + .04 + .64 + 3.24 = 6.8; population deviation sqrt(1.36).
    """
    batch = scored(make([2, 0], [0, 0], [3, 2]), [[0, 0, -1], [0, -1]])
    sd = math.sqrt(1.36)
    got = CAPO(ddof=0)(batch, CTX)
    assert got[0, 1:].tolist() == pytest.approx([1.2 / sd, 1.2 / sd, 0.2 / sd], abs=1e-4)
    assert got[1, 1:3].tolist() == pytest.approx([-0.8 / sd, -1.8 / sd], abs=1e-4)
    sample = CAPO()(batch, CTX)
    assert sample[0, 1].item() == pytest.approx(1.2 / math.sqrt(1.7), abs=1e-4)


def test_capo_without_wrong_steps_is_grpo_weighed_by_length(make: Make) -> None:
    even = make([2, 0, 0, 2], [0] * 4, [3] * 4)
    torch.testing.assert_close(CAPO(ddof=0)(even, CTX), Outcome(ddof=0)(even, CTX))
    uneven = make([2, 0], [0, 0], [1, 3])
    mean, sd = 0.5, math.sqrt(0.75)
    assert CAPO(ddof=0)(uneven, CTX)[:, 1].tolist() == pytest.approx(
        [(2 - mean) / sd, -mean / sd], abs=1e-5
    )


def test_capo_counts_excluded_tokens_and_keeps_a_lone_trajectory(make: Make) -> None:
    batch = make([2, 0], [0, 0], [1, 1])
    mask = batch.mask.clone()
    mask[1] = False
    batch = replace(batch, mask=mask, trained=torch.tensor([1, 0]), n_tokens=1, n_sequences=1)
    assert CAPO(ddof=0)(batch, CTX)[:, 1].tolist() == pytest.approx([1, 0], abs=1e-5)
    alone = scored(make([2], [0], [2]), [[0, -1]])
    assert CAPO()(alone, CTX)[0, 1:].tolist() == [2, 1]


def test_oreal_importance() -> None:
    """p = .8 -> .6 in a correct trajectory and 0 in a wrong one; p = .2 the other way."""
    logit = math.log(0.8 / 0.2)
    scores = torch.tensor([[logit, -logit, 0.0]] * 2)
    got = importance(scores, torch.tensor([[True], [False]]))
    torch.testing.assert_close(got, torch.tensor([[0.6, 0, 0], [0, 0.6, 0]]))


def test_oreal_takes_the_running_mean_over_the_policys_tokens(make: Make, observe: Make) -> None:
    """A = +-4/3 on [1, 0, 0, 1]; scores 2L, (observation), 0 with L = logit(.8): means 2L, L."""
    level = math.log(4)
    batch = observe(make([1, 0, 0, 1], [0] * 4, [3, 1, 1, 1]), [(0, 2)])
    batch = scored(batch, [[2 * level, 99, 0], [-level], [level], [level]])
    got = OREAL()(batch, CTX)
    strong = (16 / 17 - 0.5) / 0.5
    assert got[0].tolist() == pytest.approx([0, 4 / 3 * strong, 0, 4 / 3 * 0.6], abs=1e-5)
    assert got[1:, 1].tolist() == pytest.approx([-4 / 3 * 0.6, 0, 4 / 3 * 0.6], abs=1e-5)


def test_oreal_without_scores_is_leave_one_out_on_right_or_wrong(make: Make) -> None:
    """Whatever the shaped scalars are."""
    batch = make([1, 0, 0, 1], [0] * 4)
    got = OREAL()(replace(batch, rewards=torch.tensor([9.0, 8.0, 7.0, 6.0])), CTX)
    assert got[:, 1].tolist() == pytest.approx([4 / 3, -4 / 3, -4 / 3, 4 / 3])
    signs = replace(batch, rewards=batch.rewards * 2 - 1)
    assert torch.equal(OREAL()(batch, CTX), PRESETS["rloo"](signs, CTX))


def test_deepsearch_compares_node_values_with_the_leaves(make: Make) -> None:
    """Final scores 1, -1, -1: mean -1/3, population deviation sqrt(8) / 3."""
    batch = scored(make([1, -1, -1], [0] * 3, [2, 1, 1]), [[0.5, 1], [-1], [-0.25]])
    got = DeepSearch()(batch, CTX)
    assert got[0, 1:].tolist() == pytest.approx([0.5 + 1 / 3, 4 / 3])
    assert got[1:, 1].tolist() == pytest.approx([-2 / 3, -0.25 + 1 / 3])
    alone = scored(make([1], [0], [2]), [[0.5, 1]])
    assert DeepSearch()(alone, CTX)[0, 1:].tolist() == [0.5, 1]
    sd = math.sqrt(8) / 3
    assert DeepSearch(scaled=True)(batch, CTX)[0, 2].item() == pytest.approx(4 / 3 / sd, abs=1e-5)


def test_deepsearch_on_leaves_alone_is_dr_grpo(make: Make) -> None:
    batch = make([1, -1, -1, 1, 1], [0, 0, 0, 1, 1], [2, 1, 3, 1, 2])
    leaves = replace(batch, token_rewards=batch.rewards[:, None] * batch.mask)
    torch.testing.assert_close(DeepSearch()(leaves, CTX), PRESETS["dr_grpo"](batch, CTX))
    with pytest.raises(UserError, match="token rewards"):
        DeepSearch()(batch, CTX)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([0.4, 1, 0.2], [0, 0.6, 0]),
        ([1, 1, 0], [0, 0, 0]),
        ([0, 0, 0], [0, 0, 0]),
        ([-3, -1], [0, 2]),
        ([0.5], [0.5]),
    ],
)
def test_pass_at_k_trains_the_best(make: Make, rewards: list[float], expected: list[float]) -> None:
    batch = make(rewards, [0] * len(rewards))
    assert PassAtK()(batch, CTX)[:, 1].tolist() == pytest.approx(expected)


def test_pass_at_k_over_two_groups_and_by_the_deviation(make: Make) -> None:
    """[1, 0, 0]: deviation sqrt(1/3); [0, 3, 1]: deviation sqrt(7/3). Groups are interleaved."""
    batch = make([1, 0, 0, 3, 0, 1], [0, 1, 0, 1, 0, 1])
    assert PassAtK()(batch, CTX)[:, 1].tolist() == [1, 0, 0, 2, 0, 0]
    scaled = PassAtK(scaled=True)(batch, CTX)[:, 1].tolist()
    expected = [math.sqrt(3), 0, 0, 2 / math.sqrt(7 / 3), 0, 0]
    assert scaled == pytest.approx(expected, abs=1e-5)


def test_gdpo_tells_apart_what_a_sum_cannot(make: Make) -> None:
    """The paper's example: rewards (1, 0), (1, 1): GRPO on the sums 1, 2 and on 0, 2 is the same.

    Per component [1, 1] -> 0, [0, 1] -> -+.70711 against [0, 1] twice -> -+1.41421.
    """
    batch = make([0, 0, 0, 0], [0, 0, 1, 1])
    parts = {"a": torch.tensor([1.0, 1, 0, 1]), "b": torch.tensor([0.0, 1, 0, 1])}
    batch = replace(batch, components=parts)
    got = GDPO(whiten="none")(batch, CTX)[:, 1].tolist()
    assert got == pytest.approx([-0.70711, 0.70711, -1.41421, 1.41421], abs=1e-4)
    # Squares .5 .5 2 2 over 3: deviation sqrt(5/3).
    normal = GDPO()(batch, CTX)[:, 1].tolist()
    assert normal == pytest.approx([x / math.sqrt(5 / 3) for x in got], abs=1e-4)


def test_gdpo_weights_and_its_two_last_steps(make: Make) -> None:
    batch = make([0] * 4, [0] * 4, [1, 2, 3, 4])
    parts = {"a": torch.tensor([1.0, 0, 0, 1]), "b": torch.tensor([1.0, 0, 0, 0])}
    batch = replace(batch, components=parts)
    weights = {"a": 2.0, "b": 0.5}
    total = GDPO(weights, whiten="none")(batch, CTX)
    expected = [2 * 0.86602 + 0.75, -2 * 0.86602 - 0.25, -2 * 0.86602 - 0.25, 2 * 0.86602 - 0.25]
    assert total[:, 1].tolist() == pytest.approx(expected, abs=1e-4)
    by_token = GDPO(weights, whiten="token")(batch, CTX)
    torch.testing.assert_close(by_token, whitened(total, batch.mask))
    per_row = torch.tensor(expected)
    by_trajectory = GDPO(weights)(batch, CTX)[:, 1]
    torch.testing.assert_close(by_trajectory, per_row / per_row.std(), rtol=0, atol=1e-4)


def test_gdpo_has_nothing_to_say_of_a_lone_trajectory(make: Make) -> None:
    batch = make([0, 0, 0], [0, 0, 1])
    batch = replace(batch, components={"a": torch.tensor([1.0, 0, 1])})
    assert GDPO(whiten="none")(batch, CTX)[2, 1] == 0
    assert GDPO()(batch, CTX)[2, 1] == 0


def test_gdpo_of_one_component_is_grpo_on_it(make: Make) -> None:
    batch = make([1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1])
    parts = {"env": batch.rewards, "style": torch.rand(6)}
    batch = replace(batch, components=parts)
    got = GDPO({"env": 1.0}, whiten="none")(batch, CTX)
    assert torch.equal(got, PRESETS["grpo"](batch, CTX))
    with pytest.raises(UserError, match=r"no reward component 'evn'.*did you mean 'env'"):
        GDPO({"evn": 1.0})(batch, CTX)
    with pytest.raises(UserError, match="named reward components"):
        GDPO()(make([1], [0]), CTX)
