"""Off-policy rules inside a real update: what is rejected is as if it had never been trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from agentrl.algo.advantage import PRESETS, estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.offpolicy import Correction
from agentrl.algo.types import Batch
from agentrl.points import Ctx
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=10, seed=0)
VOCAB = 31


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(5)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def made(learner: TorchLearner) -> Batch:
    """Trajectory 1 has two rows; the engine's logprobs are the learner's, trajectory 2's less 1."""
    rng = torch.Generator().manual_seed(1)

    def row() -> Transcript:
        ids = torch.randint(1, VOCAB, (8,), generator=rng).numpy()
        sampled = Segment(Origin.MODEL, ids[3:], torch.full((5,), -1.0).numpy(), version=0)
        return Transcript().append(Segment(Origin.PROMPT, ids[:3]), sampled)

    task = Task(id="t", question="q")
    members = tuple(
        Trajectory(
            uid=f"0/t/{s}",
            task=task,
            sibling=s,
            rows=tuple(row() for _ in range(2 if s == 1 else 1)),
            messages=(),
            stop=StopReason.TERMINATED,
            reward=float(s % 2),
        )
        for s in range(4)
    )
    batch = estimate(PRESETS["dr_grpo"], make_batch([Group(task, members)], pad_id=0), CTX)
    behaviour = learner.logprobs(batch)
    behaviour[batch.trajectory_index == 2] -= 1.0
    behaviour[batch.trajectory_index == 1] -= 0.05
    return replace(batch, behaviour_logprobs=behaviour * batch.mask)


def updated(
    folder: Path, correction: Correction, micro_tokens: int = 1000, drop: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights and metrics after one update; `drop` takes trajectory 2 out by hand."""
    learner = TorchLearner(folder, lr=1e-2, micro_tokens=micro_tokens)
    batch = made(learner)
    if drop:
        keep = batch.trajectory_index != 2
        assert batch.advantages is not None
        batch = replace(
            batch,
            mask=batch.mask & keep[:, None],
            trained=batch.trained * keep,
            advantages=batch.advantages * keep[:, None],
        ).recount()
    metrics = learner.update(
        batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX, correction=correction
    )
    weights = {k: v.clone() for bucket in learner.export() for k, v in bucket.items()}
    return weights, dict(metrics)


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_rejected_trajectory_was_never_there(folder: Path) -> None:
    """Its ratios are e: the geometric mean leaves [.5, 2]. The others' are 1 and 1.05."""
    rule = Correction(reject={"sequence_mean_k1": (0.5, 2.0)})
    got, metrics = updated(folder, rule)
    by_hand, _ = updated(folder, Correction(), drop=True)
    everything, before = updated(folder, Correction())
    assert far(got, by_hand) < 1e-6
    assert far(got, everything) > 1e-4
    assert metrics["rejected_token_share"] == pytest.approx(5 / 25)
    assert metrics["rejected_sequence_share"] == pytest.approx(1 / 4)
    assert (metrics["n_tokens"], before["n_tokens"]) == (20, 25)
    assert metrics["ratio_max"] == pytest.approx(1.05127, abs=1e-4)


def test_a_rule_nobody_breaks_changes_nothing(folder: Path) -> None:
    rule = Correction(reject={"token_k1": (0.01, 100.0)})
    got, metrics = updated(folder, rule)
    plain, _ = updated(folder, Correction())
    assert far(got, plain) < 1e-6
    assert metrics["rejected_token_share"] == 0


@pytest.mark.parametrize("micro_tokens", [1, 17])
def test_a_trajectorys_ratio_spans_rows_in_other_micro_batches(
    folder: Path, micro_tokens: int
) -> None:
    """Ten tokens of 1.05 in two rows are 1.65 together, capped at 1.5."""
    correction = Correction("sequence", high=1.5)
    whole, metrics = updated(folder, correction)
    cut, _ = updated(folder, correction, micro_tokens)
    assert far(whole, cut) < 1e-5
    assert metrics["ratio_max_sequence"] == pytest.approx(torch.e**5, rel=1e-3)
    assert metrics["weight_mean"] == pytest.approx((10 * 1.5 + 5 * 1.5 + 10) / 25, abs=1e-4)
