"""How far `agentrl estimate` is from what is measured, at sizes that fit on one CPU core.

    OMP_NUM_THREADS=1 python benchmarks/estimate.py

Three random Qwen2 models. Learner: one supervised update of 8 rows of 256 tokens, in fp32 and in bf16,
with and without activation checkpointing; its peak memory is counted in torch's allocator, its time is
the best of three updates. Engine: 32 rows of 16 + 64 tokens generated together by the in-process
engine, prefill included. Predictions are those of device=CPU, whose numbers come from the rates that
this benchmark measures too (a large product, a large copy). Writes benchmarks/results/estimate.json.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from machine import about_this_machine
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from agentrl.algo.batch import demo_batch
from agentrl.engine.base import Sampling
from agentrl.engine.transformers import TransformersEngine
from agentrl.train.estimate import Plan, Work
from agentrl.train.estimate.devices import DEVICES
from agentrl.train.estimate.measure import peak_bytes
from agentrl.train.estimate.memory import learner_memory
from agentrl.train.estimate.shapes import parameters, shape_of
from agentrl.train.estimate.steptime import step_time
from agentrl.train.torch_learner import TorchLearner
from agentrl.transcript import Origin, Segment, Transcript

RESULTS = Path(__file__).parent / "results" / "estimate.json"
SIZES: dict[str, dict[str, int]] = {
    "2M": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 2000},
    "10M": {"hidden_size": 320, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 8000},
    "38M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "vocab_size": 16_000},
}  # fmt: skip
LEARNT, LENGTH = 8, 256
PLAYED, PROMPT, SAMPLED = 32, 16, 64
CPU = DEVICES["CPU"]


def best_s(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of `times` runs."""
    found = []
    for _ in range(times):
        began = perf_counter()
        work()
        found.append(perf_counter() - began)
    return min(found)


def rates() -> dict[str, float]:
    """What this core reaches: products in both types, and copying (read and write counted)."""
    found = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        left, right = torch.randn(2, 1024, 1024).to(dtype)
        found[f"{name}_gflops"] = 2 * 1024**3 / best_s(lambda a=left, b=right: a @ b, 8) / 1e9
    source, target = torch.randn(2, 1 << 25)
    found["copy_gb_per_s"] = 2 * source.nbytes / best_s(lambda: target.copy_(source), 5) / 1e9
    return {name: round(value, 1) for name, value in found.items()}


def made(size: str, folder: Path) -> Path:
    torch.manual_seed(0)
    heads = SIZES[size]["hidden_size"] // 64
    config = Qwen2Config(
        **SIZES[size], num_attention_heads=heads, num_key_value_heads=1,
        max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder / size)
    return folder / size


def learner(path: Path, dtype: Any, checkpointing: bool) -> dict[str, Any]:
    """One update, measured and predicted."""
    made = TorchLearner(
        path, dtype=dtype, activation_checkpointing=checkpointing, micro_tokens=LEARNT * LENGTH
    )
    shape = shape_of(str(path))
    rng = np.random.default_rng(0)
    rows = demo_batch(
        [
            Transcript().append(
                Segment(Origin.PROMPT, rng.integers(0, shape.vocab, 1).astype(np.int32)),
                Segment(Origin.DEMO, rng.integers(0, shape.vocab, LENGTH - 1).astype(np.int32)),
            )
            for _ in range(LEARNT)
        ],
        pad_id=0,
    )
    made.sft_update(rows)
    measured_s = best_s(lambda: made.sft_update(rows))
    measured_mb = (12 * made.n_parameters + peak_bytes(lambda: made.sft_update(rows))) / 2**20
    plan = Plan(
        path.name, shape, CPU, 1, Work(LEARNT, 1, 1, LENGTH - 1, 0, 0.0, 0.0),
        dtype=dtype, checkpointing=checkpointing, max_tokens=LENGTH, micro_tokens=LEARNT * LENGTH,
    )  # fmt: skip
    tokens = LEARNT * (LENGTH - 1)
    time = step_time(plan)
    memory = learner_memory(plan, tokens=tokens, scored=tokens, micro_batches=1)
    predicted_s, predicted_mb = time.learning + time.optimizer, memory.total / 2**20
    return {
        "dtype": dtype,
        "checkpointing": checkpointing,
        "step_s": round(measured_s, 3),
        "step_predicted_over_measured": round(predicted_s / measured_s, 2),
        "peak_mb": round(measured_mb, 1),
        "peak_predicted_over_measured": round(predicted_mb / measured_mb, 3),
    }


async def engine(path: Path) -> dict[str, Any]:
    """One wave of rows, measured and predicted."""
    shape = shape_of(str(path))
    made = TransformersEngine(path, max_batch=PLAYED, max_context=128, deterministic=False)
    await made.open()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, shape.vocab, PROMPT).astype(np.int32) for _ in range(PLAYED)]

    async def wave(seed: int) -> None:
        async with asyncio.TaskGroup() as group:
            for i, prompt in enumerate(prompts):
                sampling = Sampling(SAMPLED, seed=seed * PLAYED + i)
                group.create_task(made.generate(prompt, sampling))

    times = []
    try:
        for seed in range(4):
            for prompt in prompts:
                prompt[:] = rng.integers(0, shape.vocab, PROMPT)
            began = perf_counter()
            await wave(seed)
            times.append(perf_counter() - began)
    finally:
        await made.close()
    work = Work(PLAYED, 1, PROMPT, SAMPLED, 0, 0.0, 0.0)
    plan = Plan(
        path.name, shape, CPU, 1, work, dtype="float32", max_tokens=128, micro_tokens=128,
        in_flight=PLAYED,
    )  # fmt: skip
    measured = min(times[1:])
    return {
        "wave_s": round(measured, 3),
        "wave_predicted_over_measured": round(step_time(plan).generation / measured, 2),
        "tokens_per_s": round(PLAYED * SAMPLED / measured),
    }


def main() -> None:
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": about_this_machine(), "rates": rates(), "models": {}}
    print(json.dumps(found["rates"]))
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = made(size, Path(folder))
            rows = [
                learner(path, dtype, checkpointing)
                for dtype in ("float32", "bfloat16")
                for checkpointing in (False, True)
            ]
            played = asyncio.run(engine(path))
            n = parameters(shape_of(str(path)))
            found["models"][size] = {"parameters": n, "learner": rows, "engine": played}
            print(size, n, json.dumps(rows), json.dumps(played), flush=True)
    found["tolerances"] = {"peak": 0.05}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
