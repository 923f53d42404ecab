"""Sampling: the right distribution, from (seed, position) alone."""

from __future__ import annotations

import numpy as np
import torch

from agentrl.engine.sampler import Draws, draw, uniforms


def draws(n: int, **changes) -> Draws:
    fields = {
        "temperatures": np.ones(n, np.float32),
        "top_k": np.zeros(n, np.int64),
        "top_p": np.ones(n, np.float32),
        "seeds": np.arange(n, dtype=np.uint64),
        "positions": np.full(n, 5, np.int64),
        "targets": np.full(n, -1, np.int64),
        "entropies": True,
    }
    return Draws(**{**fields, **changes})


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's statistic in standard deviations above its mean, sqrt(2 df) each."""
    expected = counts.sum() * probabilities
    kept = expected > 5
    df = kept.sum() - 1
    statistic = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    return float((statistic - df) / np.sqrt(2 * df))


def test_consecutive_seeds_sample_the_softmax():
    logits = torch.linspace(-2, 2, 23).expand(40_000, 23).contiguous()
    for temperature in (1.0, 0.5):
        drawn = draw(logits, draws(40_000, temperatures=np.full(40_000, temperature, np.float32)))
        expected = torch.softmax(logits[0] / temperature, -1).numpy()
        assert chi_square(np.bincount(drawn.token_ids, minlength=23), expected) < 4


def test_consecutive_positions_of_one_seed_sample_the_softmax():
    logits = torch.linspace(-2, 2, 23).expand(40_000, 23).contiguous()
    one_seed = draws(40_000, seeds=np.full(40_000, 9, np.uint64), positions=np.arange(40_000))
    drawn = draw(logits, one_seed)
    expected = torch.softmax(logits[0], -1).numpy()
    assert chi_square(np.bincount(drawn.token_ids, minlength=23), expected) < 4
    pairs = drawn.token_ids[:-1] * 23 + drawn.token_ids[1:]
    joint = np.outer(expected, expected).ravel()
    assert chi_square(np.bincount(pairs, minlength=529), joint) < 4


def test_uniforms_are_the_published_mix_and_stay_below_one():
    """SplitMix64 seeded with 0 gives 0xE220A8397B1DCDAF first; the second mix is over its xor with
    position x 0xD1B54A32D192ED03 (0 at position 0). Worked with Python integers."""
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF
    seeds = np.array([0, 1, 2**64 - 1], np.uint64)
    positions = np.array([0, 7, 123456])
    expected = [
        (mix(mix(int(s)) ^ (int(p) * 0xD1B54A32D192ED03 & mask)) >> 32) / 2**32
        for s, p in zip(seeds, positions, strict=True)
    ]
    assert uniforms(seeds, positions).tolist() == expected
    many = uniforms(np.arange(100_000, dtype=np.uint64), np.zeros(100_000, np.int64))
    assert many.min() >= 0
    assert many.max() < 1
    np.testing.assert_allclose(np.histogram(many, 10, (0, 1))[0], 10_000, rtol=0.05)


def test_filters_keep_the_right_tokens_and_leave_other_rows_alone():
    """p = (.5, .25, .15, .1). top_k 2 -> (2/3, 1/3); top_p .6 -> .5 < .6 keeps two as well;
    top_k 3 then top_p .5 of (5/9, 5/18, 1/6) -> the first alone."""
    p = torch.tensor([0.15, 0.5, 0.1, 0.25])
    logits = p.log().expand(4, 4).contiguous()
    drawn = draw(
        logits,
        draws(
            4,
            top_k=np.array([2, 0, 3, 0]),
            top_p=np.array([1, 0.6, 0.5, 1], np.float32),
            targets=np.array([1, 3, 1, 2]),
        ),
    )
    np.testing.assert_allclose(np.exp(drawn.logprobs), [2 / 3, 1 / 3, 1.0, 0.1], rtol=1e-5)
    two = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    four = float(-(p * p.log()).sum())
    np.testing.assert_allclose(drawn.entropies, [two, two, 0.0, four], atol=1e-6)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((5000, 7), float("-inf"))
    logits[:, 2] = 0.0
    logits[:, 5] = -1.0
    drawn = draw(logits, draws(5000))
    assert set(drawn.token_ids.tolist()) == {2, 5}


def test_greedy_and_sampled_rows_share_a_batch():
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
    drawn = draw(logits, draws(2, temperatures=np.array([0.0, 1e-3], np.float32)))
    assert drawn.token_ids.tolist() == [1, 1]
    expected = float(torch.log_softmax(logits[0], -1)[1])
    np.testing.assert_allclose(drawn.logprobs, [expected, 0.0], atol=1e-6)
