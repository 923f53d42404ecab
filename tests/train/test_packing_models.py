"""Which models compute shared prefixes once, and what becomes of those that cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from agentrl.algo.advantage import Outcome, estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.types import Batch
from agentrl.points import Ctx
from agentrl.train.packing import use_forest
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=10, seed=0)
VOCAB = 288
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": True, "max_position_embeddings": 256,
}  # fmt: skip


def siblings() -> Batch:
    """Four rows behind one prompt of 30 tokens."""
    rng = np.random.default_rng(0)
    task = Task(id="t", question="q")
    prompt = Segment(Origin.PROMPT, rng.integers(3, VOCAB, 30).tolist())
    members = []
    for i in range(4):
        tail = rng.integers(3, VOCAB, 6).tolist()
        row = Transcript().append(prompt, Segment(Origin.MODEL, tail, [-2.0] * 6, version=0))
        stop = StopReason.TERMINATED
        members.append(Trajectory(str(i), task, i, (row,), (), stop, reward=float(i)))
    return estimate(Outcome(), make_batch([Group(task, tuple(members))], pad_id=0), CTX)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def update(learner: TorchLearner, batch: Batch) -> dict[str, float]:
    return dict(learner.update(batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)), "sliding_window"),
        (
            lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=0.5)),
            "plain output layer",
        ),
        (
            lambda: BloomForCausalLM(
                BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=2)
            ),
            "attention is eager",
        ),
    ],
    ids=["window", "soft cap", "alibi"],
)
def test_models_that_cannot_are_told_once_and_trained_flat(
    make: Callable[[], nn.Module], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(make(), tmp_path)
    batch = siblings()
    with caplog.at_level(logging.WARNING, logger="agentrl"):
        learner = TorchLearner(path, lr=0.0, reference=True)
        metrics = [update(learner, batch) for _ in range(2)]
    assert learner.flat_because is not None
    assert reason in learner.flat_because
    assert [reason in record.getMessage() for record in caplog.records] == [True]
    assert metrics[0]["shared_prefixes"] == 0
    flat = TorchLearner(path, lr=0.0, shared_prefixes=False)
    assert update(flat, batch)["grad_norm"] == metrics[0]["grad_norm"]


def test_a_model_that_looks_right_and_is_not_is_found_out(tiny: Path) -> None:
    """Each layer also reads its neighbour on the left, as RWKV's token shift does."""
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert use_forest(model, model.model, torch.device("cpu")) is None

    def shifted(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return out + 0.1 * torch.roll(out, 1, dims=1)

    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.model.layers[0].mlp.register_forward_hook(shifted)
    reason = use_forest(model, model.model, torch.device("cpu"))
    assert reason is not None
    assert "its states differ by" in reason
    assert model.config._attn_implementation == "sdpa"


def test_what_is_saved_knows_nothing_of_it(tiny: Path, tmp_path: Path) -> None:
    learner = TorchLearner(tiny)
    learner.save(tmp_path)
    assert "forest" not in (tmp_path / "model" / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.config._attn_implementation == "sdpa"
