"""Steady state: episodes with slow tools on a saturated engine, beside generation alone.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py --engines transformers vllm

512 episodes of 3 turns, 128 in flight, a 0.5 s tool after every turn but the last; the engine computes
at most 64 or 128 rows together. The raw side gives the same requests, with the same seeds, to the same
engine, as many at a time as it computes together and with no tools between them. Prompt tokens found in
the engine's cache are told for both. Writes results/overlap.json.
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

RESULTS = Path(__file__).parent / "results" / "overlap.json"


async def measure(name: str, batch: int, options: argparse.Namespace) -> dict:
    """Seconds of both sides, one number per repetition."""
    with random_model(options.model) as folder:
        engine = make_engine(name, folder, batch)
        await engine.open()
        times: dict[str, list[float]] = {"loop": [], "raw": []}
        tokens, cached = [], []
        for repetition in range(-1, options.repetitions):
            warming, before = repetition < 0, engine.statistics()
            looped_s, remembering = await through_the_loop(
                engine, folder, episodes=batch if warming else options.episodes,
                in_flight=options.in_flight, turns=3, tool_s=options.tool_s, seed=repetition + 1,
            )  # fmt: skip
            between = engine.statistics()
            raw_s = await raw(engine, remembering.asked, in_flight=batch)
            after = engine.statistics()
            if not warming:
                times["loop"].append(looped_s)
                times["raw"].append(raw_s)
                tokens.append(n_tokens(remembering.asked))
                cached.append(
                    {
                        "loop": between.cached_tokens - before.cached_tokens,
                        "raw": after.cached_tokens - between.cached_tokens,
                    }
                )
        await engine.close()
    ratios = [a / b for a, b in zip(times["loop"], times["raw"], strict=True)]
    return {
        "engine": name, "model": options.model, "episodes": options.episodes,
        "in_flight": options.in_flight, "batch": batch, "cached_tokens": cached, "tool_s": options.tool_s,
        "seconds": times, "tokens": tokens, "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3),
        "target": "at most 1.10",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--model", default="2.5M")
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--tool-s", type=float, default=0.5)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    started = about_this_machine()
    lines = []
    for name, batch in product(options.engines, options.batch):
        line = asyncio.run(measure(name, batch, options))
        lines.append(line)
        loop, alone = (statistics.median(line["seconds"][side]) for side in ("loop", "raw"))
        print(f"{name:13} batch {batch:3}: with tools {loop:.1f} s, generation alone {alone:.1f} s: "
              f"{line['ratio']:.3f} ({line['ratio_min']:.3f} .. {line['ratio_max']:.3f})")  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    record = {"schema_version": 1, "what": "3 turns of at most 128 tokens, a tool between them",
              "machine": started, "lines": lines}  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
