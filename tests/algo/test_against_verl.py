"""The other project's own functions as a second oracle; skipped where verl is not installed.

Run with `pip install verl` in an environment of its own. Everything is compared on random
batches with observations in the middle of rows, which verl calls a response mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentrl.algo.advantage import PRESETS
from agentrl.algo.gae import GAE
from agentrl.algo.gdpo import GDPO
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.losses.cispo import CISPO
from agentrl.algo.losses.gspo import GSPO
from agentrl.algo.offpolicy import Correction, correct, keep, log_ratios, mismatch
from agentrl.algo.pass_at_k import PassAtK
from agentrl.algo.reward_to_go import RewardToGo
from agentrl.algo.types import Batch
from agentrl.points import Advantage, Ctx, Estimate
from agentrl.transcript import Origin

core: Any = pytest.importorskip("verl.trainer.ppo.core_algos")
rollout: Any = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper")
functional: Any = pytest.importorskip("verl.utils.torch_functional")
workers: Any = pytest.importorskip("verl.workers.config")
Make = Callable[..., Batch]
N = 12


@dataclass(frozen=True)
class Case:
    """One random batch, as ours and as verl's tensors without the prompt column."""

    batch: Batch
    mask: Tensor
    outcomes: Tensor
    """Reward at each row's last token."""
    uid: Any
    old: Tensor
    behaviour: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@pytest.fixture(params=range(6))
def case(request: pytest.FixtureRequest, make: Make, recount: Make) -> Case:
    rng = torch.Generator().manual_seed(request.param)
    groups = [i // 4 for i in range(N)]
    lengths = torch.randint(2, 12, (N,), generator=rng).tolist()
    batch = make(torch.rand(N, generator=rng).round(decimals=1).tolist(), groups, lengths)
    shape, last = batch.mask.shape, torch.tensor(lengths)
    hole = (torch.rand(shape, generator=rng) < 0.3) & batch.mask
    hole[:, 1] = False
    hole[torch.arange(N), last] = False
    origins = torch.where(hole, int(Origin.OBSERVATION), batch.origins.long()).to(torch.int8)
    mask = batch.mask & ~hole
    old = -3 * torch.rand(shape, generator=rng)
    behaviour = (old + 0.2 * torch.randn(shape, generator=rng)) * mask
    parts = {k: torch.rand(N, generator=rng).round(decimals=1) for k in ("a", "b")}
    batch = replace(
        batch,
        mask=mask,
        origins=origins,
        values=torch.rand(shape, generator=rng),
        token_rewards=0.1 * torch.rand(shape, generator=rng) * mask,
        old_logprobs=old,
        behaviour_logprobs=behaviour,
        components=parts,
    )
    batch = recount(batch)
    outcomes = torch.zeros(shape)
    outcomes[torch.arange(N), last] = batch.rewards
    return Case(batch, mask[:, 1:].float(), outcomes, np.array(groups), old, behaviour, parts)


def ours(estimator: Advantage, batch: Batch) -> Tensor:
    found = estimator(batch, Ctx(step=0, total_steps=1, seed=0))
    return (found.advantages if isinstance(found, Estimate) else found)[:, 1:]


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6)


class Settings(dict[str, Any]):
    """verl reads its settings both ways."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def test_advantages(case: Case) -> None:
    batch, m, uid = case.batch, case.mask, case.uid
    outcome, rewards = replace(batch, token_rewards=None), case.outcomes[:, 1:]
    close(ours(PRESETS["grpo"], outcome), core.compute_grpo_outcome_advantage(rewards, m, uid)[0])
    plain = core.compute_grpo_outcome_advantage(rewards, m, uid, norm_adv_by_std_in_grpo=False)
    close(ours(PRESETS["dr_grpo"], outcome), plain[0])
    close(ours(PRESETS["rloo"], outcome), core.compute_rloo_outcome_advantage(rewards, m, uid)[0])
    close(ours(PRESETS["opo"], outcome), core.compute_opo_outcome_advantage(rewards, m, uid)[0])
    baseline = core.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, m, uid)
    close(ours(PRESETS["reinforce_pp_baseline"], outcome), baseline[0])
    best = core.compute_grpo_passk_outcome_advantage(rewards, m, uid, config=Settings())
    close(ours(PassAtK(scaled=True), outcome), best[0])


def test_advantages_of_token_rewards(case: Case) -> None:
    batch, m = case.batch, case.mask
    assert batch.values is not None
    assert batch.token_rewards is not None
    rewards = (case.outcomes + batch.token_rewards)[:, 1:]
    for gamma in (1.0, 0.9):
        found = GAE(gamma, 0.95)(batch, Ctx(step=0, total_steps=1, seed=0))
        assert found.returns is not None
        theirs = core.compute_gae_advantage_return(rewards, batch.values[:, 1:], m, gamma, 0.95)
        close(found.advantages[:, 1:], theirs[0] * m)
        close(found.returns[:, 1:], theirs[1] * m)
        to_go = core.compute_reinforce_plus_plus_outcome_advantage(
            rewards, m, Settings(gamma=gamma)
        )
        close(ours(RewardToGo(gamma), batch), to_go[0])
    whole = core.compute_grpo_outcome_advantage(rewards, m, case.uid)
    close(ours(PRESETS["grpo"], batch), whole[0])


def test_gdpo(case: Case) -> None:
    total = torch.zeros_like(case.mask)
    for name, weight in (("a", 1.0), ("b", 0.5)):
        scores = case.mask.new_zeros(case.mask.shape)
        scores[:, 0] = case.parts[name]
        total += weight * core.compute_grpo_outcome_advantage(scores, case.mask, case.uid)[0]
    expected = functional.masked_whiten(total, case.mask) * case.mask
    close(ours(GDPO({"a": 1.0, "b": 0.5}, whiten="token"), case.batch), expected)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("low", "threshold"), [(None, 2.0), (0.5, "0.5_2.0")])
@pytest.mark.parametrize("normalize", [False, True])
def test_weights(
    case: Case, level: Any, low: float | None, threshold: Any, normalize: bool
) -> None:
    got = correct(
        case.old, case.behaviour, case.batch.mask, level=level, low=low, normalize=normalize
    )
    d = (case.old - case.behaviour)[:, 1:]
    theirs = rollout.compute_rollout_correction_weights(d, case.mask, level, threshold, normalize)
    close(got[:, 1:], theirs[0])


@pytest.mark.parametrize(
    ("rule", "option", "threshold", "bounds"),
    [
        # Theirs bound the inverse of the ratio.
        ("token_k1", "token_k1", "0.8_1.3", (1 / 1.3, 1 / 0.8)),
        ("sequence_sum_k1", "seq_sum_k1", "0.7_1.3", (1 / 1.3, 1 / 0.7)),
        ("sequence_mean_k1", "seq_mean_k1", "0.95_1.04", (1 / 1.04, 1 / 0.95)),
        ("token_k2", "token_k2", "0.02", (None, 0.02)),
        ("token_k3", "token_k3", "0.02", (None, 0.02)),
        ("sequence_sum_k2", "seq_sum_k2", "0.1", (None, 0.1)),
        ("sequence_sum_k3", "seq_sum_k3", "0.1", (None, 0.1)),
        ("sequence_mean_k2", "seq_mean_k2", "0.02", (None, 0.02)),
        ("sequence_mean_k3", "seq_mean_k3", "0.02", (None, 0.02)),
        ("sequence_max_k2", "seq_max_k2", "0.05", (None, 0.05)),
        ("sequence_max_k3", "seq_max_k3", "0.05", (None, 0.05)),
    ],
)
def test_rejection(case: Case, rule: Any, option: str, threshold: str, bounds: Any) -> None:
    kept = keep(case.batch, Correction(reject={rule: bounds}))
    d = (case.old - case.behaviour)[:, 1:]
    mask, metrics = rollout.compute_rollout_rejection_mask(d, case.mask, option, threshold)
    assert torch.equal(kept.batch.mask[:, 1:].float(), mask)
    share = metrics["rollout_rs_masked_fraction"]
    assert kept.metrics["rejected_token_share"] == pytest.approx(share, abs=1e-6)


def test_metrics(case: Case) -> None:
    mask = case.batch.mask
    d = log_ratios(case.old, case.behaviour, mask)[mask]
    sequences = case.batch.trajectory_index[:, None].expand_as(mask)[mask]
    got = mismatch(d, d.exp(), Correction(), sequences)
    theirs = rollout.compute_offpolicy_metrics(case.old[:, 1:], case.behaviour[:, 1:], case.mask)
    names = {"kl_k1": "kl", "kl_k3": "k3_kl", "chi2": "chi2_token"}
    names |= {"chi2_sequence": "chi2_seq", "ppl_ratio": "ppl_ratio"}
    for own, their in names.items():
        assert got[own] == pytest.approx(theirs[their], abs=1e-5)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_losses_and_their_gradients(case: Case, mode: Any) -> None:
    batch, m = case.batch, case.mask
    rng = torch.Generator().manual_seed(0)
    start = case.old + 0.5 * torch.randn(case.old.shape, generator=rng)
    advantages = torch.randn(start.shape, generator=rng) * batch.mask
    pairs = {
        core.compute_policy_loss_vanilla: Clip(0.2, 0.28, 3.0),
        core.compute_policy_loss_gspo: GSPO(0.2, 0.28, "token"),
        core.compute_policy_loss_cispo: CISPO(0.2, 0.28),
    }
    settings = workers.ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
    )
    for theirs, loss in pairs.items():
        logprobs = start.clone().requires_grad_()
        mine = Aggregate(mode)(loss(logprobs, case.old, advantages, batch.mask)[0], batch)
        (grad,) = torch.autograd.grad(mine, logprobs)
        value = theirs(case.old[:, 1:], logprobs[:, 1:], advantages[:, 1:], m, mode, settings)[0]
        (expected,) = torch.autograd.grad(value, logprobs)
        close(mine.detach(), value.detach())
        close(grad * batch.mask, expected * batch.mask)
