"""The constants that define the core methods: turned, the trained numbers change as the formula says.

Each check gets a recipe as it is and the same with other words, both as composed configurations, and
compares rewards, advantages or slopes of the loss with numbers worked out here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.config import RunConfig
from agentrl.points import Drop, Keep

Check = Callable[[Any, RunConfig, RunConfig], None]
"""The lab, the recipe as it is, the recipe turned."""
CASES: list[tuple[str, tuple[str, ...], Check]] = []


def turned(recipe: str, *words: str) -> Callable[[Check], Check]:
    """Enter a check into the table: the recipe, and the words that turn its constant."""

    def enter(check: Check) -> Check:
        CASES.append((recipe, words, check))
        return check

    return enter


def close(got: Tensor, wanted: Tensor, what: str = "") -> None:
    torch.testing.assert_close(got, wanted.to(got.dtype), rtol=1e-4, atol=1e-6, msg=what or None)


def differ(before: Tensor, after: Tensor) -> None:
    assert float((before - after).abs().max()) > 1e-4


def per_group(batch: Batch, of: Callable[[Tensor], Tensor]) -> Tensor:
    """[B, 1]: a statistic of each row's group; one row is one trajectory here."""
    found = [of(batch.rewards[batch.group_index == g]) for g in batch.group_index]
    return torch.stack(found)[:, None]


def ratios(lab: Any, batch: Batch) -> Tensor:
    return (lab.now(batch) - batch.old_logprobs).exp()


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    kept = values[mask].double()
    return (values - kept.mean()) / (kept.var(correction=1) + 1e-8).sqrt() * mask


# --- advantages -------------------------------------------------------------------------------------


def gae_by_hand(batch: Batch, lam: float) -> tuple[Tensor, Tensor]:
    """Whitened advantages and returns, gamma 1, token by token from the right."""
    assert batch.values is not None
    advantages, returns = torch.zeros(batch.mask.shape), torch.zeros(batch.mask.shape)
    for row in range(len(batch)):
        after, running = 0.0, 0.0
        earned = float(batch.rewards[row])
        for t in reversed(batch.mask[row].nonzero().flatten().tolist()):
            value = float(batch.values[row, t])
            running = earned + after - value + lam * running
            earned, after = 0.0, value
            advantages[row, t], returns[row, t] = running, running + value
    return whitened(advantages, batch.mask), returns


@turned("ppo", "algo.advantage.lam=1.0")
def lambda_trusts_the_critic_less(lab: Any, before: RunConfig, after: RunConfig) -> None:
    for config, lam in ((before, 0.95), (after, 1.0)):
        close(lab.advantages(config), gae_by_hand(lab.batch(config), lam)[0])
    differ(lab.advantages(before), lab.advantages(after))


@turned("ppo", "learner.critic.clip=null")
def the_value_clip_silences_values_that_moved_too_far(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    """dL/dv = (v - R) / N, and 0 where the clipped error is the larger."""
    batch = lab.batch(before)
    _, returns = gae_by_hand(batch, 0.95)
    values = lab.new_values(batch)
    plain = (values - returns) * batch.mask / batch.n_tokens
    near = batch.values + (values - batch.values).clamp(-0.2, 0.2)
    silenced = (near - returns).abs() > (values - returns).abs()
    assert (silenced & batch.mask).any()
    close(lab.slopes(after).values, plain)
    close(lab.slopes(before).values, plain.masked_fill(silenced, 0.0))


@turned("grpo", "algo.advantage.scale=none")
def grpo_divides_by_the_deviation(lab: Any, before: RunConfig, after: RunConfig) -> None:
    deviation = per_group(lab.batch(before), lambda r: r.std()) + 1e-6
    close(lab.advantages(after), lab.advantages(before) * deviation)
    differ(lab.advantages(before), lab.advantages(after))


@turned("grpo", "algo.aux=[{name: kl, coef: 0.08, estimator: k3}]")
def grpo_is_held_to_its_start(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """d k3 / d logp = 1 - exp(ref - logp), a mean over tokens; the coefficient doubles."""
    batch = lab.batch(before)
    slope = (1 - (batch.ref_logprobs - lab.now(batch)).exp()) * batch.mask / batch.n_tokens
    close(lab.slopes(after).logprobs - lab.slopes(before).logprobs, 0.04 * slope)


@turned("dr_grpo", "algo.aggregate_length=512")
def dr_grpo_divides_by_a_constant(lab: Any, before: RunConfig, after: RunConfig) -> None:
    close(lab.slopes(after).logprobs, lab.slopes(before).logprobs / 2)
    assert lab.slopes(before).logprobs.abs().max() > 1e-4


@turned("dr_grpo", "algo.shapers=[]")
def dr_grpo_pays_nothing_for_a_truncated_answer(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    """Group c: right, right, right but truncated, wrong; centres 2/4 and 3/4, no deviation."""
    close(lab.rewards(before)[8:], torch.tensor([1.0, 1, 0, 0]))
    close(lab.rewards(after)[8:], torch.tensor([1.0, 1, 1, 0]))
    close(lab.advantages(before)[8:].sum(1), torch.tensor([2.0, 48, -7, -7]) / 2)
    close(lab.advantages(after)[8:].sum(1), torch.tensor([2.0, 48, 7, -21]) / 4)


@turned("rloo", "algo.advantage.center=group")
def rloo_leaves_the_sample_out(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """r - mean of the other three = 4/3 (r - mean of the four)."""
    close(lab.advantages(before), lab.advantages(after) * 4 / 3)


@turned("rloo", "algo.reward_kl.coef=0.1")
def rloo_pays_for_the_whole_answer(lab: Any, before: RunConfig, after: RunConfig) -> None:
    batch = lab.batch(before)
    paid = ((batch.old_logprobs - batch.ref_logprobs) * batch.mask).sum(1)
    for config, coef in ((before, 0.05), (after, 0.1)):
        r = (batch.rewards - coef * paid).view(3, 4)
        wanted = r - (r.sum(1, keepdim=True) - r) / 3
        close(lab.advantages(config), wanted.reshape(-1, 1) * batch.mask)
    differ(lab.advantages(before), lab.advantages(after))


@turned("reinforce_pp", "algo.reward_kl.coef=0.05")
def reinforce_pp_pays_token_by_token(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Reward-to-go: the outcome less what is paid from here on, normalised over all tokens."""
    batch = lab.batch(before)
    k1 = (batch.old_logprobs - batch.ref_logprobs) * batch.mask
    from_here = k1.flip(1).cumsum(1).flip(1)
    for config, coef in ((before, 0.01), (after, 0.05)):
        raw = (batch.rewards[:, None] - coef * from_here) * batch.mask
        close(lab.advantages(config), whitened(raw, batch.mask))
    differ(lab.advantages(before), lab.advantages(after))


@turned("lite_ppo", "algo.advantage.scale=group")
def lite_ppo_divides_by_the_batchs_deviation(lab: Any, before: RunConfig, after: RunConfig) -> None:
    batch = lab.batch(before)
    change = (batch.rewards.std() + 1e-6) / (per_group(batch, lambda r: r.std()) + 1e-6)
    close(lab.advantages(after), lab.advantages(before) * change)
    differ(lab.advantages(before), lab.advantages(after))


# --- surrogates -------------------------------------------------------------------------------------


@turned("dapo", "algo.loss.high=0.2")
def dapo_clips_higher(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Good tokens with a ratio in (1.2, 1.28) lose their slope -A rho / N; no other token changes."""
    batch = lab.estimated(before)
    ratio = ratios(lab, batch)
    between = (ratio > 1.2) & (ratio < 1.28) & (batch.advantages > 0)
    assert between.sum() >= 3
    slope = lab.slopes(before).logprobs
    close(slope[between], (-batch.advantages * ratio / batch.n_tokens)[between])
    close(lab.slopes(after).logprobs, slope.masked_fill(between, 0.0))


@turned("dapo", "algo.loss.dual=3.0")
def dapo_bounds_bad_tokens_too(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Bad tokens with a ratio in (3, 10) lose theirs."""
    batch = lab.estimated(before)
    ratio = ratios(lab, batch)
    between = (ratio > 3) & (ratio < 10) & (batch.advantages < 0)
    assert between.any()
    slope = lab.slopes(before).logprobs
    assert (slope[between] > 0).all()
    close(lab.slopes(after).logprobs, slope.masked_fill(between, 0.0))


@turned("dapo", "algo.gate.high=0.74")
def dapo_draws_again_what_is_too_easy(lab: Any, before: RunConfig, after: RunConfig) -> None:
    assert lab.verdicts(before) == [Keep(), Keep(), Keep()]
    assert lab.verdicts(after) == [Keep(), Keep(), Drop("easy")]


@turned("dapo", "algo.shapers=[{name: outcome, wrong: -1.0}]")
def dapo_punishes_long_answers(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """48 tokens, the ramp of 16 ends at 56: (48 - 40) / 16 of the punishment."""
    gone = lab.rewards(after) - lab.rewards(before)
    close(gone, torch.tensor([0.0] * 9 + [0.5] + [0.0] * 2))
    close(lab.rewards(after), torch.tensor([1.0, -1, -1, 1, 1, -1, -1, -1, 1, 1, 1, -1]))


@turned("gspo", "algo.loss.low=0.5", "algo.loss.high=0.5")
def gspo_clips_whole_answers(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """-A s / (n N) on all n tokens of an answer, or on none of them."""
    batch = lab.estimated(before)
    log_ratio = (lab.now(batch) - batch.old_logprobs) * batch.mask
    n = batch.mask.sum(1, keepdim=True)
    s = (log_ratio.sum(1, keepdim=True) / n).exp()
    for config, low, high in ((before, 3e-4, 4e-4), (after, 0.5, 0.5)):
        a = batch.advantages
        silent = ((a > 0) & (s > 1 + high)) | ((a < 0) & (s < 1 - low))
        wanted = (-a * s / n / batch.n_sequences).masked_fill(silent | ~batch.mask, 0.0)
        close(lab.slopes(config).logprobs, wanted)
    differ(lab.slopes(before).logprobs, lab.slopes(after).logprobs)


@turned("cispo", "algo.loss.high=0.28")
def cispo_bounds_the_weight_and_keeps_the_token(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    """-A min(rho, 1 + high) / N: every token of an unequal group keeps a slope."""
    batch = lab.estimated(before)
    ratio = ratios(lab, batch)
    for config, cap in ((before, 5.0), (after, 1.28)):
        wanted = -batch.advantages * ratio.clamp(max=cap) * batch.mask / batch.n_tokens
        close(lab.slopes(config).logprobs, wanted)
        assert (wanted[batch.mask] != 0).all()
    differ(lab.slopes(before).logprobs, lab.slopes(after).logprobs)


@turned("gppo", "algo.loss.high_scale=0.0")
def gppo_keeps_a_slope_where_it_clips(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Good tokens above 1.28: -A 1.28 / N, and 0 when PPO's clip is put back."""
    batch = lab.estimated(before)
    above = (ratios(lab, batch) > 1.28) & (batch.advantages > 0)
    assert above.sum() >= 3
    slope = lab.slopes(before).logprobs
    close(slope[above], (-batch.advantages * 1.28 / batch.n_tokens)[above])
    close(lab.slopes(after).logprobs, slope.masked_fill(above, 0.0))
    assert lab.slopes(after).loss == pytest.approx(lab.slopes(before).loss)


# --- the table --------------------------------------------------------------------------------------

CORE = frozenset(
    ["ppo", "grpo", "dr_grpo", "rloo", "reinforce_pp", "lite_ppo", "dapo", "gspo", "cispo", "gppo"]
)


@pytest.mark.parametrize(
    ("name", "words", "check"), CASES, ids=[f"{r}-{c.__name__}" for r, _, c in CASES]
)
def test_a_turned_constant_changes_the_numbers_as_its_formula_says(
    name: str, words: tuple[str, ...], check: Check, lab: Any
) -> None:
    check(lab, lab.config(name), lab.config(name, *words))


def test_every_core_recipe_is_in_the_table() -> None:
    assert {name for name, _, _ in CASES} == CORE
