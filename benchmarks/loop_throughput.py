"""Tokens per second through the rollout loop, without tools, beside the engine called raw.

    OMP_NUM_THREADS=1 python benchmarks/loop_throughput.py --engines transformers vllm

Both sides compute the same requests with the same seeds, in turns, with as many in flight; the engine
computes fewer together, so that it is saturated on both. Generations have 64 to 192 tokens (`spread`),
as those of real rollouts differ, or 128 all of them (`even`): then the raw side, and only it, prefills
64 prompts in one step again and again. Writes results/loop_throughput.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from itertools import product
from pathlib import Path

from machine import about_this_machine
from rollout_world import make_engine, n_tokens, random_model, raw, through_the_loop

RESULTS = Path(__file__).parent / "results" / "loop_throughput.json"


async def measure(
    engine_name: str,
    spread: bool,
    model: str,
    episodes: int,
    in_flight: int,
    batch: int,
    repetitions: int,
) -> dict:
    """Tokens per second of both sides, one number per repetition."""
    with random_model(model) as folder:
        engine = make_engine(engine_name, folder, batch)
        await engine.open()
        rates: dict[str, list[float]] = {"loop": [], "raw": []}
        for repetition in range(-1, repetitions):
            looped_s, remembering = await through_the_loop(
                engine, folder, episodes=episodes, in_flight=in_flight, turns=1, tool_s=0.0,
                seed=repetition + 1, spread=spread,
            )  # fmt: skip
            raw_s = await raw(engine, remembering.asked, in_flight=in_flight)
            if repetition >= 0:  # the first round is for warming up
                total = n_tokens(remembering.asked)
                rates["loop"].append(total / looped_s)
                rates["raw"].append(total / raw_s)
        await engine.close()
    ratios = [a / b for a, b in zip(rates["loop"], rates["raw"], strict=True)]
    return {
        "engine": engine_name, "lengths": "spread" if spread else "even", "model": model,
        "episodes": episodes, "in_flight": in_flight, "batch": batch,
        "tokens_per_s": rates, "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3),
        "target": "at least 0.95",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--model", default="2.5M")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--in-flight", type=int, default=96, help="on both sides")
    parser.add_argument(
        "--batch", type=int, default=64, help="rows that the engine computes together"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    started = about_this_machine()
    lines = []
    for name, spread in product(options.engines, (True, False)):
        line = asyncio.run(
            measure(
                name,
                spread,
                options.model,
                options.episodes,
                options.in_flight,
                options.batch,
                options.repetitions,
            )
        )
        lines.append(line)
        rates = {k: round(statistics.median(v)) for k, v in line["tokens_per_s"].items()}
        print(f"{name:13} {line['lengths']:6} loop {rates['loop']} tok/s, raw {rates['raw']}: "
              f"{line['ratio']:.3f} ({line['ratio_min']:.3f} .. {line['ratio_max']:.3f})")  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    record = {"schema_version": 1, "what": "episodes of one turn, 128 tokens on average",
              "machine": started, "lines": lines}  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
