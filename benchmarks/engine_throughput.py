"""Tokens per second of the in-process engine against vLLM in process: same models, prompts, budget.

    OMP_NUM_THREADS=1 python benchmarks/engine_throughput.py

Every contender lives in a process of its own; a repetition runs all of them in turn, one at a time.
Prints one ratio table and writes benchmarks/results/engine_throughput.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from machine import about_this_machine

RESULTS = Path(__file__).parent / "results" / "engine_throughput.json"
PROMPT_TOKENS, NEW_TOKENS = 40, 128
BASELINE = "vllm (LLM.generate)"
CONTENDERS = (
    BASELINE,
    "vllm (VllmEngine)",
    "transformers, deterministic",
    "transformers, not deterministic",
)
MODELS = {
    "2.5M": {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "nano": {
        "vocab_size": 288,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    },
}


def save_model(name: str, folder: Path) -> int:
    """A random Qwen2 with tied embeddings; returns its number of parameters."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        **MODELS[name],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.05,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def prompts(n: int, repetition: int, vocab: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1000 * repetition + n)
    return list(rng.integers(0, vocab, (n, PROMPT_TOKENS)).astype(np.int32))


def serve(contender: str, folder: str, dtype: str, pipe: Connection) -> None:
    """A contender's process: load, then time whatever rows come down the pipe."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    run = raw_vllm(folder, dtype) if contender == BASELINE else engine(contender, folder, dtype)
    pipe.send("ready")
    while True:
        rows = pipe.recv()
        if rows is None:
            return
        started = time.perf_counter()
        n_tokens = run(rows)
        pipe.send(n_tokens / (time.perf_counter() - started))


def raw_vllm(folder: str, dtype: str):
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder,
        skip_tokenizer_init=True,
        dtype=dtype,
        enforce_eager=True,
        block_size=32,
        kv_cache_memory_bytes=256 << 20,
        max_num_seqs=128,
        enable_chunked_prefill=False,
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
    )

    def run(rows: list[np.ndarray]) -> int:
        sampling = [
            SamplingParams(
                max_tokens=NEW_TOKENS, seed=i, logprobs=0, ignore_eos=True, detokenize=False
            )
            for i in range(len(rows))
        ]
        requests = [{"prompt_token_ids": row.tolist()} for row in rows]
        outputs = llm.generate(requests, sampling, use_tqdm=False)
        return sum(len(o.outputs[0].token_ids) for o in outputs)

    return run


def engine(contender: str, folder: str, dtype: str):
    from agentrl.engine.base import Sampling
    from agentrl.engine.transformers import TransformersEngine
    from agentrl.engine.vllm.engine import VllmEngine

    if contender.startswith("vllm"):
        made = VllmEngine(folder, dtype=dtype)
    else:
        deterministic = contender.endswith(", deterministic")
        made = TransformersEngine(folder, dtype=dtype, deterministic=deterministic)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(made.open())

    async def all_rows(rows: list[np.ndarray]) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(made.generate(row, Sampling(max_tokens=NEW_TOKENS, seed=i)))
                for i, row in enumerate(rows)
            ]
        return sum(len(t.result().token_ids) for t in tasks)

    return lambda rows: loop.run_until_complete(all_rows(rows))


def measure(name: str, dtype: str, batches: list[int], repetitions: int) -> dict:
    """Tokens per second of each contender, `[batch][contender] -> one number per repetition`."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        n_parameters = save_model(name, Path(folder))
        pipes = {}
        for contender in CONTENDERS:
            pipes[contender], theirs = context.Pipe()
            context.Process(
                target=serve, args=(contender, folder, dtype, theirs), daemon=True
            ).start()
            assert pipes[contender].recv() == "ready"
        vocab = MODELS[name]["vocab_size"]
        rates = {n: {c: [] for c in CONTENDERS} for n in batches}
        for repetition in range(-1, repetitions):
            for n in batches:
                for contender in CONTENDERS:
                    pipes[contender].send(prompts(n, repetition + 1, vocab))
                    rate = pipes[contender].recv()
                    if repetition >= 0:  # the first round is for warming up
                        rates[n][contender].append(rate)
        for pipe in pipes.values():
            pipe.send(None)
    return {"model": name, "parameters": n_parameters, "dtype": dtype, "tokens_per_s": rates}


def summarise(measured: dict) -> list[dict]:
    lines = []
    for n, by_contender in measured["tokens_per_s"].items():
        for contender, rates in by_contender.items():
            ratios = [r / b for r, b in zip(rates, by_contender[BASELINE], strict=True)]
            lines.append(
                {
                    "model": measured["model"],
                    "dtype": measured["dtype"],
                    "batch": n,
                    "engine": contender,
                    "tokens_per_s": round(statistics.median(rates)),
                    "ratio": round(statistics.median(ratios), 3),
                    "ratio_min": round(min(ratios), 3),
                    "ratio_max": round(max(ratios), 3),
                }
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--dtype", default="float32", choices=["float32"])
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: the two sides must use the same threads")
    started = about_this_machine()
    measured = [
        measure(name, options.dtype, options.batches, options.repetitions)
        for name in options.models
    ]
    lines = [line for m in measured for line in summarise(m)]
    print(f"{'model':6} {'batch':>5}  {'engine':32} {'tok/s':>7}  ratio to vLLM (min .. max)")
    for x in lines:
        print(
            f"{x['model']:6} {x['batch']:5}  {x['engine']:32} {x['tokens_per_s']:7}  "
            f"{x['ratio']:.2f} ({x['ratio_min']:.2f} .. {x['ratio_max']:.2f})"
        )
    record = {
        "schema_version": 1,
        "what": f"{PROMPT_TOKENS} prompt + {NEW_TOKENS} new tokens per row, seeded, logprobs",
        "machine": started,
        "repetitions": options.repetitions,
        "summary": lines,
        "raw": measured,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
