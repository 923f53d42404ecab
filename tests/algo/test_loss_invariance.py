"""What no surrogate may depend on: micro-batches, ranks, row order, tokens off the mask; and what
published methods become when their own part is switched off."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from agentrl.algo.advantage import Outcome
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.losses import CISPO, GPPO, GSPO, OREAL, Reinforce, SequenceRatio, Shaped
from agentrl.algo.types import Batch
from agentrl.points import Ctx, PolicyLoss
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=1, seed=0)
Make = Callable[..., Batch]
LOSSES: dict[str, PolicyLoss] = {
    "clip": Clip(0.2, 0.28, dual=3.0),
    "gppo": GPPO(),
    "cispo": CISPO(),
    "gspo": GSPO(0.05, 0.05),
    "gspo_token": GSPO(0.05, 0.05, level="token"),
    "sequence_ratio": SequenceRatio(),
    "reinforce": Reinforce(),
    "oreal": OREAL(),
    "shaped": Shaped(),
}
AGGREGATES = [
    Aggregate("token-mean"),
    Aggregate("token-sum"),
    Aggregate("seq-mean-token-sum"),
    Aggregate("seq-mean-token-mean"),
    Aggregate("seq-mean-token-sum-norm", length=16),
]


class Scene(NamedTuple):
    batch: Batch
    logprobs: Tensor
    old: Tensor
    advantages: Tensor


def scene(make: Make) -> Scene:
    """Two groups, a trajectory of two rows, an excluded row, observation tokens inside rows."""
    generator = torch.Generator().manual_seed(5)
    batch = make(
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1, 1],
        lengths=[7, 3, 5, 6, 1, 4],
        trajectories=[0, 1, 1, 2, 3, 4],
    )
    mask = batch.mask.clone()
    mask[0, 3:5] = mask[3, 2] = False
    origins = torch.where(batch.mask & ~mask, int(Origin.OBSERVATION), batch.origins)
    mask[5] = False
    counts = torch.zeros(5, dtype=torch.int64).index_add(0, batch.trajectory_index, mask.sum(1))
    batch = replace(
        batch,
        mask=mask,
        origins=origins.to(torch.int8),
        trained=counts[batch.trajectory_index],
        weights=torch.tensor([1, 1, 1, 0.5, 1, 1]),
    ).recount()
    old = -torch.rand(mask.shape, generator=generator)
    logprobs = old + torch.randn(mask.shape, generator=generator) / 3
    return Scene(batch, logprobs, old, Outcome()(batch, CTX))


def total(
    loss: PolicyLoss, aggregate: Aggregate, given: Scene, cuts: list[Tensor] | None = None
) -> tuple[float, Tensor]:
    """Loss and gradient [B, T] of the whole, or added up over cuts of its rows."""
    leaf = given.logprobs.clone().requires_grad_(True)
    value = 0.0
    for rows in cuts or [torch.arange(len(given.batch))]:
        part = given.batch.select(rows)
        width = part.mask.shape[1]
        logprobs, old, advantages = (x[rows, :width] for x in (leaf, given.old, given.advantages))
        share = aggregate(loss(logprobs, old, advantages, part.mask)[0], part)
        share.backward()
        value += share.item()
    assert leaf.grad is not None
    return value, leaf.grad


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda a: a.mode)
@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_and_ranks_do_not_matter(make: Make, name: str, aggregate: Aggregate) -> None:
    """Rows one by one, in learners' micro-batches, dealt to two ranks, and in another order."""
    given = scene(make)
    value, gradient = total(LOSSES[name], aggregate, given)
    assert gradient.abs().sum() > 0
    cuts = [
        [torch.tensor([row]) for row in (4, 0, 5, 2, 3, 1)],
        [micro.rows for micro in given.batch.micro_batches(12)],
        [torch.tensor([1, 5, 3]), torch.tensor([2, 0, 4])],
        [torch.tensor([5, 3, 0, 4, 2, 1])],
    ]
    for cut in cuts:
        again, slopes = total(LOSSES[name], aggregate, given, cut)
        assert again == pytest.approx(value, abs=1e-6, rel=1e-6)
        torch.testing.assert_close(slopes, gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_tokens_off_the_mask_do_not_matter(make: Make, name: str) -> None:
    """Observations, prompts, padding and excluded rows: anything there, infinities and NaN too."""
    given = scene(make)
    aggregate = Aggregate("seq-mean-token-mean")
    value, gradient = total(LOSSES[name], aggregate, given)
    off = ~given.batch.mask
    for old, new in [(-math.inf, -2.0), (-3.0, -math.inf), (-math.inf, -math.inf), (math.nan, 5.0)]:
        changed = given._replace(
            logprobs=given.logprobs.masked_fill(off, new), old=given.old.masked_fill(off, old)
        )
        again, slopes = total(LOSSES[name], aggregate, changed)
        assert again == value
        assert torch.equal(slopes, gradient)
    assert not gradient[off].any()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [1e4, -1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_ratios_stay_finite(name: str, log_ratio: float, advantage: float) -> None:
    logprobs = torch.full((2, 3), min(log_ratio, 0.0), requires_grad=True)
    old = torch.full((2, 3), min(-log_ratio, 0.0))
    mask = torch.ones(2, 3, dtype=torch.bool)
    losses, metrics = LOSSES[name](logprobs, old, torch.full((2, 3), advantage), mask)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()
    assert all(bool(value.isfinite()) for value in metrics.values())


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_mask_gives_nothing(make: Make, name: str) -> None:
    batch = make([0, 0], [0, 0], lengths=[2, 1])
    mask = torch.zeros_like(batch.mask)
    batch = replace(batch, mask=mask, trained=torch.zeros(2, dtype=torch.int64)).recount()
    zeros = torch.zeros(mask.shape)
    given = Scene(batch, zeros, zeros, zeros)
    value, gradient = total(LOSSES[name], Aggregate("seq-mean-token-mean"), given)
    assert value == 0
    assert not gradient.any()


def sequences(given: Scene, center: float | None = None) -> dict[int, list[tuple[float, float]]]:
    """Per trajectory its tokens' (rho, A), in plain Python."""
    tokens: dict[int, list[tuple[float, float]]] = {}
    for row, column in given.batch.mask.nonzero().tolist():
        rho = math.exp(float(given.logprobs[row, column]) - float(given.old[row, column]))
        owner = int(given.batch.trajectory_index[row])
        tokens.setdefault(owner, []).append((rho, float(given.advantages[row, column])))
    return tokens


def objective(rho: float, a: float, low: float = 0.2, high: float = 0.2) -> float:
    return min(rho * a, min(max(rho, 1 - low), 1 + high) * a)


def group_advantage(batch: Batch, *, scaled: bool) -> Tensor:
    """(r - mean) / sd of each group's trajectories, by a loop."""
    rewards: dict[int, dict[int, float]] = {}
    for row in range(len(batch)):
        group = rewards.setdefault(int(batch.group_index[row]), {})
        group[int(batch.trajectory_index[row])] = float(batch.rewards[row])
    result = torch.zeros(batch.mask.shape)
    for row in range(len(batch)):
        members = list(rewards[int(batch.group_index[row])].values())
        mean = sum(members) / len(members)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in members) / (len(members) - 1))
        value = (float(batch.rewards[row]) - mean) / (deviation + 1e-6 if scaled else 1)
        result[row] = torch.where(batch.mask[row], value, 0.0)
    return result


def test_grpo_is_ppos_clip_with_the_group_advantage(make: Make) -> None:
    """DeepSeekMath's equation 3 without its KL, written out: 1/G sum_i 1/|o_i| sum_t min(...)."""
    given = scene(make)
    torch.testing.assert_close(given.advantages, group_advantage(given.batch, scaled=True))
    by_hand = [
        sum(objective(rho, a) for rho, a in tokens) / len(tokens)
        for tokens in sequences(given).values()
    ]
    value, _ = total(Clip(), Aggregate("seq-mean-token-mean"), given)
    assert value == pytest.approx(-sum(by_hand) / len(by_hand), abs=1e-6)


def test_dapo_with_equal_clips_is_token_mean_grpo(make: Make) -> None:
    """DAPO's equation 8 with one epsilon; its dual clip at 10 is not reached."""
    given = scene(make)
    tokens = [objective(*pair) for pairs in sequences(given).values() for pair in pairs]
    value, gradient = total(Clip(0.2, 0.2, dual=10.0), Aggregate("token-mean"), given)
    assert value == pytest.approx(-sum(tokens) / len(tokens), abs=1e-6)
    assert torch.equal(gradient, total(Clip(), Aggregate("token-mean"), given)[1])


def test_dr_grpo_is_unscaled_grpo_over_a_constant(make: Make) -> None:
    """Dr. GRPO's equation 3: no deviation, no length, sums over a constant L per sequence."""
    given = scene(make)
    given = given._replace(advantages=Outcome(scale="none")(given.batch, CTX))
    torch.testing.assert_close(given.advantages, group_advantage(given.batch, scaled=False))
    by_hand = [sum(objective(*pair) for pair in pairs) for pairs in sequences(given).values()]
    value, _ = total(Clip(), Aggregate("seq-mean-token-sum-norm", length=16), given)
    assert value == pytest.approx(-sum(by_hand) / len(by_hand) / 16, abs=1e-6)


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_gspo_of_one_token_answers_is_ppo(make: Make, level: str) -> None:
    batch = make([1, 0, 0, 1], [0, 0, 1, 1], lengths=[1, 1, 1, 1])
    generator = torch.Generator().manual_seed(1)
    old = -torch.rand(4, 2, generator=generator)
    logprobs = old + torch.tensor([0.5, -0.5, 0.1, -0.9])[:, None]
    given = Scene(batch, logprobs, old, Outcome()(batch, CTX))
    for aggregate in AGGREGATES:
        expected = total(Clip(0.2, 0.28), aggregate, given)
        got = total(GSPO(0.2, 0.28, level=level), aggregate, given)  # type: ignore[arg-type]
        assert got[0] == expected[0]
        assert torch.equal(got[1], expected[1])


def test_both_forms_of_gspo_agree_where_a_rows_advantages_do(make: Make) -> None:
    given = scene(make)
    aggregate = Aggregate("seq-mean-token-mean")
    forms = [
        total(GSPO(0.05, 0.05, level=level), aggregate, given) for level in ("sequence", "token")
    ]  # type: ignore[arg-type]
    assert forms[0][0] == pytest.approx(forms[1][0], abs=1e-7)
    torch.testing.assert_close(forms[0][1], forms[1][1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SequenceRatio(0.05, 0.1, mean=True), GSPO(0.05, 0.1)),
        (Clip(low=1.0, high=1e6), Reinforce()),
        (GPPO(0.2, 0.28, low_scale=0.0, high_scale=0.0), Clip(0.2, 0.28)),
        (GPPO(low=1.0, high=1e6), Reinforce()),
        (Shaped(0.2, 0.28), Clip(0.2, 0.28)),
    ],
)
def test_switched_off_they_are_another(make: Make, one: PolicyLoss, other: PolicyLoss) -> None:
    given = scene(make)
    for aggregate in AGGREGATES:
        got, expected = total(one, aggregate, given), total(other, aggregate, given)
        assert got[0] == pytest.approx(expected[0], rel=1e-6)
        torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize(
    "name", ["clip", "gppo", "cispo", "gspo", "gspo_token", "reinforce", "shaped"]
)
def test_on_policy_all_have_the_policy_gradient(make: Make, name: str) -> None:
    """At rho = 1 the slope is -A times the token's weight, whatever the surrogate."""
    given = scene(make)
    given = given._replace(logprobs=given.old.clone())
    _, gradient = total(LOSSES[name], Aggregate("seq-mean-token-sum"), given)
    if name == "gspo":  # its own mean over the row spreads each token's slope over the row
        gradient, advantages = gradient.sum(1), given.advantages.sum(1)
    else:
        advantages = given.advantages
    torch.testing.assert_close(gradient, -advantages / given.batch.n_sequences)
