"""The critic: what it learns, from what, and that it survives a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.types import Batch
from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.train.critic import CriticOptions, explained_variance, teach
from agentrl.train.run import train
from agentrl.train.torch_learner import TorchLearner

CTX = Ctx(step=0, total_steps=10, seed=0)


def learner_of(tiny: Path, critic: CriticOptions, **options: Any) -> TorchLearner:
    return TorchLearner(tiny, **({"lr": 1e-2, "critic": critic} | options))


@pytest.fixture
def batch(hand: Any) -> Batch:
    """Two groups of rows of 1 prompt and 3, 5 or 7 policy tokens; returns rise with the place."""
    groups = []
    for g in range(2):
        of = hand.task(f"t{g}")
        members = tuple(
            hand.trajectory(of, i, float(i % 2), tokens=3 + 2 * i, reward=float(i % 2))
            for i in range(3)
        )
        groups.append(replace(hand.group(f"t{g}"), trajectories=members))
    made = make_batch(groups, pad_id=0)
    returns = torch.arange(made.mask.shape[1]) / 4 * made.mask
    return replace(made, returns=returns, advantages=0.1 * made.mask)


def update(learner: TorchLearner, batch: Batch, **options: Any) -> dict[str, float]:
    return dict(learner.update(batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX, **options))


def weights(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for bucket in learner.export() for k, v in bucket.items()}


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_values_begin_at_zero_and_learn_the_returns(tiny: Path, batch: Batch, trunk: Any) -> None:
    learner = learner_of(tiny, CriticOptions(trunk=trunk))
    prepared = learner.prepared(batch)
    assert prepared.values is not None
    assert not prepared.values.any()
    before = update(learner, batch)
    assert before["critic/explained_variance"] == pytest.approx(0, abs=1e-6)
    mean = float((batch.returns[batch.mask] ** 2).mean())  # type: ignore[index]
    assert before["critic/loss"] == pytest.approx(mean / 2, rel=1e-5)
    still = replace(batch, advantages=torch.zeros(batch.mask.shape))
    for _ in range(150):
        after = update(learner, still)
    assert after["critic/loss"] < 0.1 * before["critic/loss"]
    assert after["critic/explained_variance"] > 0.8


def test_values_stand_before_their_token_and_only_there(tiny: Path, batch: Batch) -> None:
    """A value depends on the tokens before it, not on its own token or a later one."""
    learner = learner_of(tiny, CriticOptions())
    still = replace(batch, advantages=torch.zeros(batch.mask.shape))
    for _ in range(10):
        update(learner, still)
    values = learner.prepared(batch).values
    assert values is not None
    assert (values[~batch.mask] == 0).all()
    changed = batch.token_ids.clone()
    changed[:, 3] = 7
    other = learner.prepared(replace(batch, token_ids=changed)).values
    assert other is not None
    torch.testing.assert_close(other[:, :4], values[:, :4], rtol=0, atol=0)
    later = batch.mask & (torch.arange(batch.mask.shape[1]) > 3)
    assert (other != values)[later].all()


def test_the_value_loss_by_hand_and_clipped() -> None:
    """v = .9, v_old = .5, R = 1, c = .2: clipped to .7, (.3)^2 / 2 = .045; free: .01 / 2."""

    def share(clip: float | None) -> float:
        ones = torch.ones(1, 2)
        made = Batch(
            token_ids=ones.long(), attention_mask=ones.bool(),
            mask=torch.tensor([[False, True]]), behaviour_logprobs=0 * ones,
            temperatures=ones, versions=ones.int(), origins=ones.to(torch.int8),
            rewards=ones[:, 0], weights=ones[:, 0], trajectory_index=torch.tensor([0]),
            group_index=torch.tensor([0]), lengths=torch.tensor([1]), trained=torch.tensor([1]),
            contexts=torch.tensor([0], dtype=torch.int8), correct=torch.tensor([True]),
            parents=torch.tensor([-1]), forks=torch.tensor([0]), n_tokens=1, n_sequences=1,
            values=0.5 * ones, returns=ones,
        )  # fmt: skip
        return float(teach(0.9 * ones, made, clip))

    assert share(0.2) == pytest.approx(0.045)
    assert share(None) == pytest.approx(0.005)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_the_critic_does_not_depend_on_micro_batches(tiny: Path, batch: Batch, trunk: Any) -> None:
    found = []
    for micro_tokens in (10, 1000):
        critic = CriticOptions(trunk=trunk)
        learner = learner_of(tiny, critic, micro_tokens=micro_tokens, eps=1e-3)
        metrics = [update(learner, batch) for _ in range(2)]
        values = learner.prepared(batch).values
        assert values is not None
        found.append((metrics[1]["critic/loss"], values))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_in_the_warm_up_only_the_critic_learns(tiny: Path, batch: Batch, trunk: Any) -> None:
    learner = learner_of(tiny, CriticOptions(trunk=trunk, warmup_updates=2))
    start = weights(learner)
    losses = [update(learner, batch)["critic/loss"] for _ in range(2)]
    assert losses[1] < losses[0]
    if trunk == "separate":  # a shared trunk moves with its critic
        assert learner.version == 0
        assert all(torch.equal(weights(learner)[name], start[name]) for name in start)
    update(learner, batch)
    assert any(not torch.equal(weights(learner)[name], start[name]) for name in start)


def test_a_separate_critic_leaves_the_policy_alone(tiny: Path, batch: Batch) -> None:
    """The policy's update is bit for bit that of a learner without a critic."""
    plain = TorchLearner(tiny, lr=1e-2)
    update(plain, batch)
    learner = learner_of(tiny, CriticOptions(lr=0.1, minibatches=2))
    metrics = update(learner, batch)
    assert metrics["critic/lr"] == 0.1
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(learner)[name])


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_a_checkpoint_goes_on_exactly(tiny: Path, batch: Batch, trunk: Any, tmp_path: Path) -> None:
    def fresh() -> TorchLearner:
        return learner_of(tiny, CriticOptions(trunk=trunk, warmup_updates=1, clip=0.1))

    straight = fresh()
    update(straight, batch)
    straight.save(tmp_path)
    expected = [update(straight, batch) for _ in range(2)]
    resumed = fresh()
    resumed.load(tmp_path)
    assert [update(resumed, batch) for _ in range(2)] == expected


def test_explained_variance_by_hand() -> None:
    returns = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.full((4,), 1.5), returns) == 0
    assert explained_variance(-returns, returns) == pytest.approx(1 - 4)
    assert explained_variance(returns, torch.ones(4)) == 0


def test_ppo_runs_end_to_end_and_needs_its_critic(
    dice: Callable[..., RunConfig], tmp_path: Path, notes: Any
) -> None:
    config = dice(
        algo={"advantage": {"name": "gae"}},
        learner={"critic": {"trunk": "separate", "clip": 0.2}},
        train={"steps": 4},
        dir=str(tmp_path / "ppo"),
    )
    train(config, sinks=[notes], command="test")
    losses = [metrics["critic/loss"] for _, metrics in notes.steps]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert all(metrics["advantage_abs_mean"] > 0 for _, metrics in notes.steps)


@pytest.mark.parametrize(
    "options",
    [{"trunk": "shared", "lr": 1e-3}, {"coef": 0.0}, {"minibatches": 0}, {"clip": -1.0}],
)
def test_bad_options_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"learner\.critic"):
        CriticOptions(**options)
