"""Predicted bytes against bytes counted: real steps of the learner, every allocation of torch's seen.

The count is of torch's allocator (`measure.peak_bytes`), not of resident memory, so it repeats to the
byte whatever else the machine does. Weights and moments are there before the step.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

from agentrl.algo import head
from agentrl.algo.batch import demo_batch
from agentrl.train.estimate import Plan, Work
from agentrl.train.estimate.devices import DEVICES
from agentrl.train.estimate.measure import peak_bytes
from agentrl.train.estimate.memory import CHUNK_ELEMENTS, learner_memory
from agentrl.train.estimate.shapes import parameters, shape_of
from agentrl.train.torch_learner import TorchLearner
from agentrl.transcript import Origin, Segment, Transcript

ROWS, LENGTH = 4, 256
TOLERANCE = 0.05
"""Of the whole: weights, moments and the step's own."""
WORK = Work(ROWS, ROWS, 1, 1, 0, 0.0, 0.0)
SMALL: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}  # fmt: skip
MODELS = {
    "small": (Qwen2ForCausalLM, Qwen2Config, {}),
    "deep": (Qwen2ForCausalLM, Qwen2Config, {"num_hidden_layers": 8}),
    "wide": (Qwen2ForCausalLM, Qwen2Config, {"hidden_size": 256, "intermediate_size": 700}),
    "words": (Qwen2ForCausalLM, Qwen2Config, {"vocab_size": 40_000, "num_hidden_layers": 2}),
    "untied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 32}),
}


def made(folder: Path, name: str) -> Path:
    kind, config, changes = MODELS[name]
    torch.manual_seed(0)
    logging.disable_progress_bar()
    kind(config(**SMALL | changes)).save_pretrained(folder)
    return folder


def batch(vocab: int) -> Any:
    rng = np.random.default_rng(0)
    return demo_batch(
        [
            Transcript().append(
                Segment(Origin.PROMPT, rng.integers(0, vocab, 1).astype(np.int32)),
                Segment(Origin.DEMO, rng.integers(0, vocab, LENGTH - 1).astype(np.int32)),
            )
            for _ in range(ROWS)
        ],
        pad_id=0,
    )


EVERY = list(product(["float32", "bfloat16"], [False, True], [1, 2]))
"""Type, checkpointing, micro-batches."""
SOME = [("float32", False, 1), ("bfloat16", True, 2)]
CASES = [
    *(("small", *case) for case in EVERY),
    *((model, *case) for model in MODELS if model != "small" for case in SOME),
    ("words", "bfloat16", False, 1),
]


@pytest.mark.parametrize(("model", "dtype", "checkpointing", "parts"), CASES)
def test_the_peak_of_a_step_is_predicted(
    tmp_path: Path, model: str, dtype: Any, checkpointing: bool, parts: int
) -> None:
    """Layers, head (one chunk, several, many words), autocast's copies, gradients, accumulation."""
    path = made(tmp_path, model)
    learner = TorchLearner(
        path,
        dtype=dtype,
        activation_checkpointing=checkpointing,
        micro_tokens=ROWS * LENGTH // parts,
    )
    shape = shape_of(str(path))
    assert parameters(shape) == learner.n_parameters
    rows = batch(shape.vocab)
    learner.sft_update(rows)  # the moments are made
    measured = 12 * learner.n_parameters + peak_bytes(lambda: learner.sft_update(rows))
    plan = Plan(
        model, shape, DEVICES["CPU"], 1, WORK,
        dtype=dtype, checkpointing=checkpointing, max_tokens=LENGTH,
    )  # fmt: skip
    tokens = ROWS * (LENGTH - 1) // parts  # of a row's last token nothing is predicted
    predicted = learner_memory(plan, tokens=tokens, scored=tokens, micro_batches=parts)
    assert predicted.parameters + predicted.optimizer == 12 * learner.n_parameters
    assert predicted.total == pytest.approx(measured, rel=TOLERANCE)


def test_the_count_is_of_bytes_held_at_once() -> None:
    def work() -> torch.Tensor:
        first = torch.zeros(1000, 250)  # 1,000,000 bytes
        second = first + 1  # and as many again
        del first
        third = second.sum(1)  # 4,000 after the first has gone
        return third

    assert peak_bytes(work) == pytest.approx(2_000_000, abs=64)  # and a few scalars


def test_the_chunk_of_the_head_is_the_one_computed() -> None:
    assert CHUNK_ELEMENTS == head.CHUNK_ELEMENTS
