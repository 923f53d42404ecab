"""The constants that define the core methods: turned, the trained numbers change as the formula says.

Each check gets a recipe as it is and the same with other words, both as composed configurations, and
compares rewards, advantages or slopes of the loss with numbers worked out here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.config import RunConfig
from agentrl.points import Ctx, Divert, Drop, Keep
from agentrl.train import loop, replay
from agentrl.train.assemble import make_update
from agentrl.transcript import Origin
from agentrl.types import Task

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


@turned("ppo_shared", "learner.critic.coef=1.0")
def the_shared_critic_has_its_weight(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """(v - R) coef / N where the value clip does not silence it; the policy's slope stays."""
    close(lab.slopes(after).values, lab.slopes(before).values * 2)
    close(lab.slopes(after).logprobs, lab.slopes(before).logprobs)
    separate = lab.slopes(lab.config("ppo")).values
    close(lab.slopes(before).values, separate / 2)
    assert separate.any()


@turned("orz", "algo.advantage.lam=0.95")
def orz_does_not_bootstrap(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """With lambda 1 the advantage is R - V; the truncated right answer earned nothing."""
    batch = lab.batch(before)
    assert batch.rewards[10] == 0
    raw = (batch.rewards[:, None] - batch.values) * batch.mask
    close(lab.advantages(before), whitened(raw, batch.mask))
    close(lab.advantages(after), gae_by_hand(batch, 0.95)[0])
    differ(lab.advantages(before), lab.advantages(after))


@turned("reinforce_pp_baseline", "algo.advantage.whiten=false")
def reinforce_pp_baseline_normalises_over_all_tokens(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    batch = lab.batch(before)
    centred = (batch.rewards[:, None] - per_group(batch, lambda r: r.mean())) * batch.mask
    close(lab.advantages(after), centred)
    close(lab.advantages(before), whitened(centred, batch.mask))


@turned("reinforce_pp_baseline", "algo.aux=[{name: kl, coef: 0.05, estimator: k2}]")
def reinforce_pp_baseline_has_its_kl_in_the_loss(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    """d k2 / d logp = logp - ref."""
    batch = lab.batch(before)
    slope = (lab.now(batch) - batch.ref_logprobs) * batch.mask / batch.n_tokens
    close(lab.slopes(after).logprobs - lab.slopes(before).logprobs, 0.04 * slope)


@turned("opo", "algo.advantage.center=group")
def opo_weighs_its_baseline_by_length(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Group a: lengths 5 4 5 6, rewards 1 0 0 1, baseline 11/20 instead of 2/4."""
    close(lab.advantages(before)[:4].amax(1)[[0, 3]], torch.tensor([9 / 20, 9 / 20]))
    batch = lab.batch(before)
    n = batch.lengths.float()
    for row in range(len(batch)):
        own = batch.group_index == batch.group_index[row]
        baseline = (n * batch.rewards)[own].sum() / n[own].sum()
        close(lab.advantages(before)[row], (batch.rewards[row] - baseline) * batch.mask[row])
        plain = batch.rewards[row] - batch.rewards[own].mean()
        close(lab.advantages(after)[row], plain * batch.mask[row])


@turned("pass_at_k", "algo.advantage.scaled=true")
def pass_at_k_trains_the_only_right_one(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Only group b has one right answer: 1 - 0, or 2 over its deviation of 1/2."""
    row = torch.zeros(12, 1)
    row[4] = 1
    mask = lab.batch(before).mask
    close(lab.advantages(before), row * mask)
    close(lab.advantages(after), row * mask / (0.5 + 1e-6))


@turned("gdpo", "algo.advantage.weights.tool_use=0.25")
def gdpo_normalises_each_reward_first(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """0.3 and 0.05 for the working call of siblings with two turns; 0.3 + 0.1 for two calls."""
    tools = torch.tensor([0.35, 0, 0.35, 0, 0, 0, 0.35, 0.4, 0, 0.35, 0.35, 0]).view(3, 4)
    right = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0]).view(3, 4)

    def normal(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6)

    mask = lab.batch(before).mask
    for config, weight in ((before, 1.0), (after, 0.25)):
        total = (normal(right) + weight * normal(tools)).flatten()
        wanted = (total - total.mean()) / (total.std() + 1e-8)
        close(lab.advantages(config), wanted[:, None] * mask)
    differ(lab.advantages(before), lab.advantages(after))


@turned("mt_grpo", "algo.advantage.turn=0.0")
def mt_grpo_credits_the_turn(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """First turns of group a earned 0.2 0 0.2 0: their tokens get +-0.1 / 0.11547 more or less,
    and tokens of last turns nothing."""
    lost = lab.advantages(before) - lab.advantages(after)
    batch = lab.batch(before)
    outcome = (batch.rewards[:, None] - per_group(batch, lambda r: r.mean())) / (
        per_group(batch, lambda r: r.std()) + 1e-6
    )
    close(lab.advantages(after), outcome * batch.mask)
    worth = 0.1 / (0.2 / math.sqrt(3) + 1e-6)
    wanted = torch.zeros(batch.mask.shape)
    wanted[0, 2:5] = wanted[2, 2:4] = worth
    close(lost[:4], wanted[:4])
    # Group b: 0 0 0.2 0.2 at the first turn; at the second 0 and 0.2 of the two that reached it.
    wanted[6, 2:4] = wanted[7, 2:6] = worth
    wanted[7, 8:11] = 0.1 / (0.2 / math.sqrt(2) + 1e-6)
    close(lost[4:8], wanted[4:8])


@turned("gigpo", "algo.advantage.weight=0.5")
def gigpo_compares_steps_from_one_state(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Group a: the first turns all answer the prompt, with returns 0.95 0 0 1; of the second
    turns the siblings 0 and 2 answer the same observation, with returns 1 and 0."""
    first = torch.tensor([0.95, 0, 0, 1])
    first = (first - first.mean()) / (first.std() + 1e-6)
    second = 0.5 / (math.sqrt(0.5) + 1e-6)
    wanted = torch.zeros(4, lab.batch(before).mask.shape[1])
    wanted[0, 2:5], wanted[0, 7:9] = first[0], second
    wanted[1, 2:6] = first[1]
    wanted[2, 2:4], wanted[2, 6:9] = first[2], -second
    wanted[3, 2:8] = first[3]
    close((lab.advantages(before) - lab.advantages(after))[:4], 0.5 * wanted)


@turned("oreal", "algo.loss.negative=1.0")
def oreal_damps_failures(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """-negative A rho over the tokens of failures; right answers are cloned with -A all the same."""
    batch = lab.estimated(before)
    wrong = batch.mask & (batch.advantages < 0)
    slope = -batch.advantages * ratios(lab, batch) / wrong.sum() * wrong
    close(lab.slopes(after).logprobs - lab.slopes(before).logprobs, 0.5 * slope)
    kl = 0.01 * (1 - (batch.ref_logprobs - lab.now(batch)).exp()) * batch.mask / batch.n_tokens
    right = batch.mask & (batch.advantages > 0)
    cloned = -batch.advantages / right.sum() * right
    close(lab.slopes(before).logprobs, cloned + 0.5 * slope + kl)


@turned("otc_grpo", "algo.shapers=[{name: otc, form: ppo}]")
def otc_prefers_the_least_calls(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Right with 1, 2 and 3 calls, wrong with none: sin(f pi / 2), f = 2m / (m + 1); the PPO form
    knows no minimum, cos(m pi / (2m + 1))."""
    right = lab.members["a"][0]
    tried = [replace(right, turns=(1,) * (m + 1)) for m in (1, 2, 3)]
    members = {"a": [*tried, replace(right, env=0, turns=(1,))]}
    close(
        lab.rewards(before, groups=lab.groups(members)),
        torch.tensor([1, math.sin(2 * math.pi / 3), math.sin(3 * math.pi / 4), 0]),
    )
    close(
        lab.rewards(after, groups=lab.groups(members)),
        torch.tensor([math.cos(m * math.pi / (2 * m + 1)) for m in (1, 2, 3)] + [0.0]),
    )


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


# --- terms beside the policy's -----------------------------------------------------------------------


@turned("klear", "algo.aux=[{name: sft_positives, coef: 0.2}]")
def klear_clones_right_answers(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """-coef / N of the right answers' tokens, on these tokens alone."""
    batch = lab.batch(before)
    right = batch.mask & batch.correct[:, None]
    more = lab.slopes(after).logprobs - lab.slopes(before).logprobs
    close(more, -0.1 / right.sum() * right)


@turned("t1", "algo.aux=[{name: entropy, coef: 0.01}, {name: kl, coef: 0.01, estimator: k3}]")
def t1_pays_for_entropy(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """dL/dH = -coef / N."""
    batch = lab.batch(before)
    for config, coef in ((before, 0.005), (after, 0.01)):
        close(lab.slopes(config).entropies, -coef / batch.n_tokens * batch.mask)


@turned("t1", "algo.schedules=[{name: moving_anchor, rate: 0.8}]")
def t1_moves_its_anchor(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Every step but the first, by the rate that `the_reference_follows_the_policy` holds to."""
    for config, rate in ((before, 0.95), (after, 0.8)):
        found = [lab.patch(config, Ctx(step, 10, 0)).anchor for step in range(3)]
        assert found == [None, rate, rate]


@turned("kdrl", "algo.aux=[{name: distill, coef: 5.0e-3, estimator: k2, mask: response}]")
def kdrl_distils_every_answer(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """coef (logp - teacher) / N; with the response mask right answers lose it."""
    batch = lab.batch(before)
    right = batch.mask & batch.correct[:, None]
    pull = 5e-3 * (lab.now(batch) - batch.teacher_logprobs) / batch.n_tokens
    close(lab.slopes(before).logprobs - lab.slopes(after).logprobs, pull * right)


@turned("kdrl", "algo.aux=[{name: distill, coef: 5.0e-3}]")
def kdrl_anneals(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """At step 40 of 80 the coefficient has gone from 5e-3 to 3e-3, at step 80 to 1e-3."""
    batch = lab.batch(before)
    pull = (lab.now(batch) - batch.teacher_logprobs) / batch.n_tokens * batch.mask
    for step, gone in ((0, 0.0), (40, 2e-3), (80, 4e-3), (200, 4e-3)):
        ctx = Ctx(step, 280, 0)
        lost = lab.slopes(after, ctx=ctx).logprobs - lab.slopes(before, ctx=ctx).logprobs
        close(lost, gone * pull)


def best_and_worst(batch: Batch) -> list[tuple[int, int]]:
    """Rows of the first right and the first wrong answer of each group."""
    pairs = []
    for group in batch.group_index.unique().tolist():
        rows = (batch.group_index == group).nonzero().flatten().tolist()
        rewards = [float(batch.rewards[row]) for row in rows]
        pairs.append((rows[rewards.index(max(rewards))], rows[rewards.index(min(rewards))]))
    return pairs


def only_terms(lab: Any, config: RunConfig) -> Ctx:
    """The step's context with the recipe's scale on the policy's own term: 0."""
    ctx = Ctx(0, 10, 0)
    patch = lab.patch(config, ctx)
    assert patch.scales == {"policy": 0.0}
    return replace(ctx, patch=patch)


@turned("redi", "algo.aux=[{name: redi, coef: 1.0, alpha: 1.0}]")
def redi_pushes_the_worse_side_less(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """-1 / (n P) on each of the n tokens of the better answer, alpha / (n P) on the worse one's."""
    batch = lab.batch(before)
    pairs = best_and_worst(batch)
    for config, alpha in ((before, 0.8), (after, 1.0)):
        wanted = torch.zeros(batch.mask.shape)
        for better, worse in pairs:
            wanted[better] = -1 / (batch.mask[better].sum() * len(pairs)) * batch.mask[better]
            wanted[worse] = alpha / (batch.mask[worse].sum() * len(pairs)) * batch.mask[worse]
        close(lab.slopes(config, ctx=only_terms(lab, config)).logprobs, wanted)


@turned("dpo", "algo.aux=[{name: dpo, coef: 1.0, beta: 0.5}]")
def dpo_prefers_by_its_margin(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """-+ beta sigmoid(-beta h) / P on every token of the two sides."""
    batch = lab.batch(before)
    gain = ((lab.now(batch) - batch.ref_logprobs) * batch.mask).sum(1)
    pairs = best_and_worst(batch)
    for config, beta in ((before, 0.1), (after, 0.5)):
        wanted = torch.zeros(batch.mask.shape)
        for better, worse in pairs:
            slope = beta * torch.sigmoid(-beta * (gain[better] - gain[worse])) / len(pairs)
            wanted[better] = -slope * batch.mask[better]
            wanted[worse] = slope * batch.mask[worse]
        close(lab.slopes(config, ctx=only_terms(lab, config)).logprobs, wanted)


@turned("echo", "algo.aux=[{name: echo, coef: 0.3}]")
def echo_learns_observations_and_nothing_else(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    """-coef / N on the N tokens that the environment wrote."""
    batch = lab.batch(before)
    observed = batch.origins == int(Origin.OBSERVATION)
    for config, coef in ((before, 0.1), (after, 0.3)):
        close(lab.slopes(config).logprobs[observed], -coef / observed.sum() * observed[observed])
    kept = [lab.slopes(config).logprobs[~observed] for config in (before, after)]
    close(kept[0], kept[1])


@turned("tea", "algo.aux=[{name: tea, coef: 0.05, tau: 0.2}]")
def tea_pays_where_logprob_and_advantage_go_together(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    """dL/dH = -coef softmax(cov / tau), capped at 100 / N and renormalised."""
    batch = lab.estimated(before)
    logprobs, a = lab.now(batch)[batch.mask].double(), batch.advantages[batch.mask].double()
    covariances = (logprobs - logprobs.mean()) * (a - a.mean())
    for config, tau in ((before, 1.0), (after, 0.2)):
        powers = (covariances / tau).exp()
        weights = (powers / powers.sum()).clamp(max=100 / batch.n_tokens)
        close(lab.slopes(config).entropies[batch.mask], -0.05 * weights / weights.sum())
    differ(lab.slopes(before).entropies, lab.slopes(after).entropies)


@turned("entropy_floor", "algo.aux=[{name: entropy, coef: 0.02, floor: 0.2}]")
def the_floor_decides_when_the_bonus_acts(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """The last step's entropy was 0.22: below 0.25, not below 0.2."""
    batch, ctx = lab.batch(before), Ctx(3, 10, 0, {"entropy": 0.22})
    close(lab.slopes(before, ctx=ctx).entropies, -0.02 / batch.n_tokens * batch.mask)
    assert not lab.slopes(after, ctx=ctx).entropies.any()


@turned("adaptive_entropy", "algo.aux=[{name: adaptive_entropy, target: 0.25, delta: 0.02}]")
def the_coefficient_looks_for_itself(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """0.03 in the last step, whose entropy was below the target: one delta more now."""
    batch = lab.batch(before)
    ctx = Ctx(3, 10, 0, {"entropy": 0.22, "entropy_control": 0.03})
    for config, coef in ((before, 0.035), (after, 0.05)):
        close(lab.slopes(config, ctx=ctx).entropies, -coef / batch.n_tokens * batch.mask)


# --- gates, queues, schedules ------------------------------------------------------------------------


def first_reset(lab: Any, config: RunConfig) -> int:
    """Step of the first reset when validation, every 2 steps, never improves."""
    for step in range(40):
        past = [{"eval/accuracy": 0.5} if i % 2 else {} for i in range(step)]
        patch = lab.patch(config, Ctx(step, 40, 0, past=past))
        assert patch.reset_reference == patch.reset_optimizer
        if patch.reset_reference:
            return step
    raise AssertionError("no reset")


@turned("prorl", "algo.schedules=[{name: reference_reset, patience: 8, optimizer: true}]")
def prorl_resets_where_validation_stalls(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """The best is from step 1; steps 3 and 9 are the first evaluations 2 and 8 steps later."""
    assert (first_reset(lab, before), first_reset(lab, after)) == (4, 10)


@turned("prorl", "algo.loss.high=0.2")
def prorl_clips_far_out(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Good tokens with a ratio in (1.2, 1.4) lose -A rho / N."""
    batch = lab.estimated(before)
    ratio = ratios(lab, batch)
    between = (ratio > 1.2) & (ratio < 1.4) & (batch.advantages > 0)
    assert between.sum() >= 4
    lost = lab.slopes(before).logprobs - lab.slopes(after).logprobs
    close(lost, -batch.advantages * ratio / batch.n_tokens * between)


RECAP = (
    "algo.schedules=[{name: recap, window: 3, temperature: 1.0, objectives: "
    "[{term: policy, metric: accuracy, complement: true}, "
    "{term: sft_positives, metric: positives_loss}]}]"
)


@turned("recap", RECAP)
def recap_weighs_by_convergence(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Losses [.6 .6 .6 .3 .3 .3] and [.2 x 6]: c = 2 and 1, i = sqrt(3 x .09 / 5) / .9 and 0."""
    past = [{"accuracy": a, "positives_loss": 0.2} for a in (0.4, 0.4, 0.4, 0.7, 0.7, 0.7)]
    apart = 2 + math.sqrt(3 * 0.3**2 / 5) / 0.9 - 1
    for config, temperature in ((before, 5.0), (after, 1.0)):
        assert lab.patch(config, Ctx(5, 10, 0, past=past[:5])).scales == {}
        patch = lab.patch(config, Ctx(6, 10, 0, past=past))
        policy = 2 / (1 + math.exp(-apart / temperature))
        assert patch.scales == pytest.approx({"policy": policy, "sft_positives": 2 - policy})
        # Both terms of the loss really carry their weight.
        batch = lab.estimated(config)
        right = batch.mask & batch.correct[:, None]
        cloned = -0.1 / right.sum() * right
        alone = lab.slopes(config).logprobs - cloned
        weighed = lab.slopes(config, ctx=Ctx(6, 10, 0, past=past, patch=patch)).logprobs
        close(weighed, policy * alone + (2 - policy) * cloned)


@turned("relift", "algo.demos.queue=4")
def relift_shows_what_nobody_solved(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Three unsolved tasks wait: enough for 2, fewer than 4."""
    wrong = {name: [replace(m, env=0) for m in lab.members[name]] for name in "abc"}
    groups = lab.groups(wrong)
    assert lab.verdicts(before, groups=groups) == [Divert("sft", "failed_all")] * 3
    assert lab.verdicts(before) == [Keep()] * 3
    told: list[int] = []

    async def demonstrate(tasks: Sequence[Task], step: int) -> list[str]:
        told.append(len(tasks))
        return [task.id for task in tasks]

    for config, rows in ((before, ["a", "b", "c"]), (after, [])):
        run = SimpleNamespace(update=make_update(config), demonstrate=demonstrate)
        assert (
            list(asyncio.run(loop._demonstrations(run, [g.task for g in groups], Ctx(0, 1, 0))))
            == rows
        )
    assert told == [3]


@turned("relift", "algo.aggregate_length=512")
def relift_divides_by_a_constant_too(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """-A rho / (256 N): no clip, at any ratio."""
    batch = lab.estimated(before)
    wanted = -batch.advantages * ratios(lab, batch) / 256 / batch.n_sequences * batch.mask
    close(lab.slopes(before).logprobs, wanted)
    close(lab.slopes(after).logprobs, wanted / 2)


@turned("ssb", "algo.gate.min_std=0.55")
def ssb_asks_for_spread(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Deviations 0.577, 0.5, 0.5."""
    assert lab.verdicts(before) == [Keep(remember=True)] * 3
    assert lab.verdicts(after) == [Keep(remember=True), Drop("flat"), Drop("flat")]


@turned("ssb", "algo.replay.capacity=1")
def ssb_keeps_the_groups_of_most_spread(lab: Any, before: RunConfig, after: RunConfig) -> None:
    groups = lab.shaped(before)
    for config, names in ((before, "abc"), (after, "a")):
        kept = replay.remembered((), groups, config.algo.replay.capacity)
        assert "".join(group.task.id for group in kept) == names


# --- corrections -------------------------------------------------------------------------------------


def mismatch(batch: Batch) -> Tensor:
    """[B, T] ratios of learner to engine."""
    return ((batch.old_logprobs - batch.behaviour_logprobs) * batch.mask).exp()


@turned("tis", "algo.offpolicy.high=1.5")
def tis_caps_the_ratio(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Below both caps the slope is the ratio's; above the lower one 1.5 / ratio of it is left."""
    w = mismatch(lab.batch(before))
    above = w > 1.5
    assert above.sum() >= 3
    assert w.max() < 2
    slope = lab.slopes(before).logprobs
    close(lab.slopes(after).logprobs, torch.where(above, slope * 1.5 / w, slope))
    close(slope, lab.slopes(lab.config("tis", "algo.offpolicy.level=off")).logprobs * w)


@turned("icepop", "algo.offpolicy.low=0.4")
def icepop_drops_what_disagrees(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Ratios between 0.4 and 0.5 weigh nothing, or what they are; the count of tokens stays."""
    w = mismatch(lab.batch(before))
    between = (w < 0.5) & (w > 0.4)
    plain = lab.slopes(lab.config("icepop", "algo.offpolicy.level=off")).logprobs
    assert (plain[between] != 0).any()
    close(lab.slopes(after).logprobs, plain * w)
    close(lab.slopes(before).logprobs, (plain * w).masked_fill(between, 0.0))


@turned("rejection", "algo.offpolicy.reject.sequence_mean_k1=[0.85, 1.25]")
def rejection_leaves_out_whole_answers(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """What is kept counts alone: slopes times w / mean(w), times tokens before over tokens now."""
    batch = lab.batch(before)
    d = mismatch(batch).log()
    n = batch.mask.sum(1)
    mean, product = (d.sum(1) / n).exp(), d.sum(1).exp()
    words = ["algo.offpolicy.level=off", "algo.offpolicy.reject.sequence_mean_k1=[0, null]"]
    plain = lab.slopes(lab.config("rejection", *words)).logprobs
    counts = []
    for config, low, high in ((before, 0.99, 1.01), (after, 0.85, 1.25)):
        kept = (mean >= low) & (mean <= high)
        counts.append(int(kept.sum()))
        w = product.clamp(max=2) * kept
        w = w / (w.sum() / kept.sum())
        close(lab.slopes(config).logprobs, plain * w[:, None] * n.sum() / n[kept].sum())
    assert 2 <= counts[0] < counts[1] < len(batch)


# --- the table --------------------------------------------------------------------------------------

CORE = frozenset(
    (
        *("ppo", "ppo_shared", "orz", "grpo", "dr_grpo", "rloo", "reinforce_pp", "lite_ppo", "opo"),
        *(
            "reinforce_pp_baseline",
            "pass_at_k",
            "gdpo",
            "mt_grpo",
            "gigpo",
            "dapo",
            "gspo",
            "cispo",
        ),
        *("gppo", "klear", "oreal", "prorl", "t1", "recap", "kdrl", "redi", "dpo", "echo", "tea"),
        *("relift", "entropy_floor", "adaptive_entropy", "ssb", "tis", "icepop", "rejection"),
        "otc_grpo",
    )
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
