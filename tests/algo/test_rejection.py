"""Rejection rules and trajectory-level weights: numbers by hand, on the ratio itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.offpolicy import OFF, Correction, correct, denominators, keep, mismatch
from agentrl.algo.rejection import rejected
from agentrl.algo.tensors import distinct
from agentrl.algo.types import Batch, RowContext
from agentrl.config import OffPolicyConfig
from agentrl.errors import UserError
from agentrl.transcript import Origin

Make = Callable[..., Batch]
D = torch.tensor([[0.5, -0.1]])
"""The vector of the methods' file: ratios 1.64872 and .90484, product 1.49182, geometric 1.22140."""


def marks(rule: str, low: float | None, high: float | None, d: Tensor = D) -> list[list[bool]]:
    every = distinct(torch.arange(len(d)))
    mask = torch.ones_like(d, dtype=torch.bool)
    return rejected(d, mask, every, {rule: (low, high)}).total.tolist()  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("rule", "low", "high", "expected"),
    [
        ("token_k1", 0.5, 1.6, [True, False]),
        ("token_k1", 0.95, 2.0, [False, True]),
        ("token_k1", None, 1.65, [False, False]),
        ("token_k1", 0.91, None, [False, True]),
        ("token_k2", None, 0.12, [True, False]),
        ("token_k2", None, 0.126, [False, False]),
        ("token_k3", None, 0.148, [True, False]),
        ("token_k3", None, 0.149, [False, False]),
        ("sequence_sum_k1", 0.5, 1.49, [True, True]),
        ("sequence_sum_k1", 0.5, 1.492, [False, False]),
        ("sequence_mean_k1", 0.99, 1.22, [True, True]),
        ("sequence_mean_k1", 0.99, 1.222, [False, False]),
        ("sequence_max_k1", 0.5, 1.64, [True, True]),
        ("sequence_max_k1", 0.91, None, [True, True]),
        ("sequence_max_k1", 0.9, 1.65, [False, False]),
        ("sequence_sum_k2", None, 0.129, [True, True]),
        ("sequence_sum_k2", None, 0.131, [False, False]),
        ("sequence_mean_k2", None, 0.064, [True, True]),
        ("sequence_mean_k2", None, 0.066, [False, False]),
        ("sequence_max_k2", None, 0.124, [True, True]),
        ("sequence_max_k2", None, 0.126, [False, False]),
        ("sequence_sum_k3", None, 0.153, [True, True]),
        ("sequence_sum_k3", None, 0.154, [False, False]),
        ("sequence_mean_k3", None, 0.076, [True, True]),
        ("sequence_mean_k3", None, 0.077, [False, False]),
        ("sequence_max_k3", None, 0.148, [True, True]),
        ("sequence_max_k3", None, 0.149, [False, False]),
    ],
)
def test_each_rule(rule: str, low: float | None, high: float | None, expected: list[bool]) -> None:
    """k2: .125, .005; k3: e^.5 - 1.5 = .14872, e^-.1 - .9 = .00484."""
    assert marks(rule, low, high) == [expected]


def test_an_asymmetric_bound_is_on_the_ratio_not_its_inverse() -> None:
    """Ratios 1.8 and .58 under [.5, 1.6]: 1.8 goes. On the inverse, verl's way, .58 would go."""
    d = torch.tensor([[math.log(1.8), math.log(0.58)]])
    assert marks("token_k1", 0.5, 1.6, d) == [[True, False]]
    inverse = [not 0.5 <= 1 / ratio <= 1.6 for ratio in (1.8, 0.58)]
    assert inverse == [False, True]
    for rule in ("sequence_sum_k1", "sequence_mean_k1"):
        assert marks(rule, 0.5, 1.6, d[:, :1]) == [[True]]
        assert marks(rule, 0.5, 1.6, d[:, 1:]) == [[False]]


def test_token_veto(make: Make) -> None:
    """One token the learner gives a hundred-thousandth of its probability takes the trajectory."""
    batch = aged(make([1, 1], [0, 0], [3, 3]), [[0, -11.6, 0], [0, -9.0, 0]])
    kept = keep(batch, Correction(reject={"sequence_max_k1": (1e-4, None)}))
    assert kept.batch.mask.any(1).tolist() == [False, True]


def aged(batch: Batch, d: list[list[float]]) -> Batch:
    """The learner's logprobs are those recorded plus `d` at the trained columns."""
    width = batch.mask.shape[1]
    gap = torch.tensor([([0.0, *row] + [0.0] * width)[:width] for row in d])
    behaviour = torch.where(batch.mask, -1.0, 0.0)
    return replace(
        batch,
        behaviour_logprobs=behaviour,
        old_logprobs=behaviour + gap,
        advantages=batch.rewards[:, None] * batch.mask,
    )


def test_what_is_rejected_leaves_mask_counts_and_loss(make: Make) -> None:
    """Trajectory 0 has two rows and loses a token, trajectory 1 all its tokens; 2 keeps its own.

    Token-mean of -A over what stays: (1 + 1 + 3) / 3, not over all six tokens.
    """
    batch = make([1, 1, 2, 3], [0] * 4, [2, 1, 2, 1], trajectories=[0, 0, 1, 2])
    batch = aged(batch, [[0, 2], [0], [2, -2], [0.1]])
    kept = keep(batch, Correction(reject={"token_k1": (0.5, 2.0)}))
    assert kept.batch.mask[:, 1:].tolist() == [
        [True, False],
        [True, False],
        [False, False],
        [True, False],
    ]
    assert kept.batch.trained.tolist() == [2, 2, 0, 1]
    assert (kept.batch.n_tokens, kept.batch.n_sequences) == (3, 2)
    assert kept.batch.lengths.tolist() == batch.lengths.tolist()
    assert kept.metrics == pytest.approx(
        {
            "rejected_token_share": 3 / 6,
            "rejected_sequence_share": 2 / 3,
            "reject/token_k1": 3 / 6,
        }
    )
    assert kept.batch.advantages is not None
    assert (kept.batch.advantages[~kept.batch.mask] == 0).all()
    assert kept.batch.old_logprobs is not None
    logprobs = kept.batch.old_logprobs
    losses, _ = Clip()(logprobs, logprobs, kept.batch.advantages, kept.batch.mask)
    assert Aggregate()(losses, kept.batch).item() == pytest.approx(-5 / 3)
    by_sequence = Aggregate("seq-mean-token-mean")(losses, kept.batch)
    assert by_sequence.item() == pytest.approx(-(1 + 3) / 2)


def test_a_sequence_is_a_trajectory(make: Make) -> None:
    """Rows [.4] and [.4] are 2.23 together: each alone would pass [.5, 2]."""
    batch = aged(make([1, 1, 1], [0] * 3, trajectories=[0, 0, 1]), [[0.4], [0.4], [0.4]])
    kept = keep(batch, Correction(reject={"sequence_sum_k1": (0.5, 2.0)}))
    assert kept.batch.mask.any(1).tolist() == [False, False, True]
    assert batch.old_logprobs is not None
    weights = Correction("sequence", high=9.0).weights(
        batch.old_logprobs, batch.behaviour_logprobs, batch.mask, batch.trajectory_index
    )
    both, one = math.exp(0.8), math.exp(0.4)
    assert weights[:, 1].tolist() == pytest.approx([both, both, one])
    normal = Correction("sequence", high=9.0, normalize=True).weights(
        batch.old_logprobs, batch.behaviour_logprobs, batch.mask, batch.trajectory_index
    )
    mean = (both + one) / 2
    assert normal[:, 1].tolist() == pytest.approx([both / mean, both / mean, one / mean])


def test_rules_must_all_be_passed_and_are_counted_apart(make: Make) -> None:
    batch = aged(make([1, 1], [0, 0], [2, 2]), [[0.5, -0.1], [0.02, 0.0]])
    rules = {"sequence_mean_k1": (0.99, 1.02), "token_k1": (1.01, None)}
    kept = keep(batch, Correction(reject=rules))  # type: ignore[arg-type]
    assert kept.batch.mask[:, 1:].tolist() == [[False, False], [True, False]]
    assert kept.metrics["rejected_token_share"] == 3 / 4
    assert kept.metrics["reject/sequence_mean_k1"] == 2 / 4
    assert kept.metrics["reject/token_k1"] == 2 / 4


def test_sequence_mask_then_token_weights(make: Make) -> None:
    """OpenRLHF's seq-mask-tis: trajectories by their geometric mean, then token weights <= 2."""
    batch = aged(make([1, 1], [0, 0], [2, 2]), [[0.5, -0.1], [2.0, 1.0]])
    correction = Correction("token", reject={"sequence_mean_k1": (0.5, 2.0)})
    kept = keep(batch, correction).batch
    assert kept.old_logprobs is not None
    weights = correction.weights(kept.old_logprobs, kept.behaviour_logprobs, kept.mask)
    assert weights[:, 1:].flatten().tolist() == pytest.approx([1.64872, 0.90484, 0, 0], abs=1e-5)


def test_where_no_correction_applies_nothing_is_rejected(make: Make) -> None:
    """Relabelled rows have no ratio to the engine, forced tokens and hinted rows none to make."""
    batch = aged(make([1, 1, 1], [0] * 3), [[3.0], [3.0], [3.0]])
    origins = batch.origins.clone()
    origins[2, 1] = int(Origin.FORCED)
    contexts = [RowContext.RELABEL, RowContext.BEHAVIOUR, RowContext.SAME]
    batch = replace(batch, origins=origins, contexts=torch.tensor(contexts, dtype=torch.int8))
    kept = keep(batch, Correction(reject={"token_k1": (0.5, 2.0)}))
    assert kept.batch.n_tokens == 3


def test_no_mismatch_is_no_correction_bit_for_bit(make: Make) -> None:
    """TIS, IcePop and rejection where the engine and the learner agree."""
    batch = aged(make([1, 0, 0.3], [0] * 3, [3, 1, 2]), [[0] * 3, [0], [0] * 2])
    assert batch.old_logprobs is not None
    plain = OFF.weights(batch.old_logprobs, batch.behaviour_logprobs, batch.mask)
    rules = {"token_k1": (0.99, 1.01), "sequence_max_k3": (None, 1e-9)}
    for correction in (
        Correction("token"),
        Correction("sequence"),
        Correction("token", low=0.5, normalize=True),
        Correction("sequence", normalize=True, reject=rules),  # type: ignore[arg-type]
    ):
        kept = keep(batch, correction).batch
        against = denominators(kept, batch.old_logprobs, correction)
        weights = correction.weights(
            against.old, against.behaviour, kept.mask, kept.trajectory_index
        )
        assert torch.equal(weights, plain)
        assert torch.equal(kept.mask, batch.mask)
        assert (kept.n_tokens, kept.n_sequences) == (batch.n_tokens, batch.n_sequences)
    assert keep(batch, OFF).batch is batch


def test_who_needs_the_whole_batch(make: Make) -> None:
    one, two = make([1, 1], [0, 0]), make([1, 1], [0, 0], trajectories=[0, 0])
    reject = Correction(reject={"token_k1": (0.5, 2.0)})
    needs = [(c.needs_whole(one), c.needs_whole(two)) for c in CORRECTIONS]
    assert needs == [(False, False), (False, False), (False, True), (True, True)]
    assert reject.needs_whole(one)
    with pytest.raises(ValueError, match="logprobs before the update"):
        keep(one, reject)


CORRECTIONS = [
    OFF,
    Correction("token"),
    Correction("sequence"),
    Correction("token", normalize=True),
]


def test_metrics_of_trajectories() -> None:
    """Trajectory 0 has d [.5, -.1], trajectory 1 d [-.3]: products e^.4, e^-.3."""
    d = torch.tensor([0.5, -0.1, -0.3])
    got = mismatch(d, d.exp(), OFF, torch.tensor([0, 0, 1]))
    assert got["chi2_sequence"] == pytest.approx((math.exp(0.8) + math.exp(-0.6)) / 2 - 1)
    assert got["ratio_max_sequence"] == pytest.approx(math.exp(0.4))
    assert got["ppl_ratio"] == pytest.approx((math.exp(-0.2) + math.exp(0.3)) / 2)
    assert got["chi2"] == pytest.approx(
        (math.exp(1) + math.exp(-0.2) + math.exp(-0.6)) / 3 - 1, rel=1e-6
    )


def test_clipped_share_is_at_the_corrections_level() -> None:
    """Ratios 1.65, .9, .74 and products 1.49, .74 against a cap of 1.4: one token, or two."""
    d, of = torch.tensor([0.5, -0.1, -0.3]), torch.tensor([0, 0, 1])
    token = mismatch(d, d.exp(), Correction("token", high=1.4), of)
    assert token["weight_clipped_share"] == pytest.approx(1 / 3)
    sequence = mismatch(d, d.exp(), Correction("sequence", high=1.4), of)
    assert sequence["weight_clipped_share"] == pytest.approx(2 / 3)


def test_the_configuration_says_the_same() -> None:
    config = OffPolicyConfig.model_validate(
        {
            "level": "sequence",
            "normalize": True,
            "reject": {"sequence_mean_k1": [0.99, 1.01], "sequence_max_k1": [1e-4, None]},
        }
    )
    made = Correction(**config.model_dump())
    assert made.reject == {"sequence_mean_k1": (0.99, 1.01), "sequence_max_k1": (1e-4, None)}
    assert Correction(**OffPolicyConfig().model_dump()) == OFF


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reject": {"token_k1": (None, None)}}, "no bound"),
        ({"reject": {"token_k1": (2.0, 0.5)}}, "0 <= low < high"),
        ({"reject": {"token_k2": (-1.0, 0.5)}}, "divergences"),
        ({"reject": {"token_k1": (0.5, 2.0)}, "old": "behaviour"}, "old=learner"),
    ],
)
def test_bad_rules_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Correction(**options)  # type: ignore[arg-type]


def test_weights_of_a_padded_trajectory_do_not_read_padding() -> None:
    old = torch.tensor([[0.0, -1.0, 5.0]])
    mask = torch.tensor([[False, True, False]])
    got = correct(old, torch.zeros(1, 3), mask, level="sequence", sequences=torch.tensor([7]))
    assert got[0].tolist() == pytest.approx([0, math.exp(-1), 0])
