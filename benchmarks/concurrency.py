"""What concurrency costs the rollout loop: 4,096 episodes at once beside 64, time and memory.

    OMP_NUM_THREADS=1 python benchmarks/concurrency.py

The real loop over a simulated engine and simulated tools (`agentrl bench rollout`), virtual time. Both
levels play the same number of episodes and are measured in turns. Memory is what Python's allocator
hands out (tracemalloc) while every episode waits in its tool. Writes results/concurrency.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tracemalloc
from dataclasses import replace
from pathlib import Path

from machine import about_this_machine

from agentrl.chat.tokenizers import load_tokenizer
from agentrl.engine.simulated import Latency
from agentrl.model_path import model_path
from agentrl.testing import rollout_bench
from agentrl.testing.rollout_bench import Lengths, Load, study
from agentrl.testing.virtual_time import run_virtually
from agentrl.transcript import Origin, Segment, Transcript, floats_array, ids_array

RESULTS = Path(__file__).parent / "results" / "concurrency.json"
FEW, MANY = 64, 4096
WAITING = Load(
    latency=Latency(
        step_ms=0.001, row_ms=0.0, prefill_ms=0.0, max_batch=1 << 20, kv_tokens=1 << 40
    ),
    turn_tokens=Lengths(128.0, 0.0),
    tool_s=Lengths(1.0, 0.0),
)
"""Every episode is in its k-th tool call at k - 0.5 s."""


def cost(repetitions: int) -> dict[str, object]:
    """CPU milliseconds per episode at both levels, in turns."""
    few, many = [], []
    for _ in range(repetitions):
        few.append(study(Load(), FEW, MANY).cpu_ms_per_episode)
        many.append(study(Load(), MANY, MANY).cpu_ms_per_episode)
    ratios = [b / a for a, b in zip(few, many, strict=True)]
    return {
        "cpu_ms_per_episode": {str(FEW): few, str(MANY): many},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "target": "at most 1.3",
    }


async def _waiting_bytes(n: int) -> list[float]:
    """Traced bytes per episode while all `n` wait in their first, second, third call."""

    async def probe() -> list[float]:
        found = []
        for call in range(WAITING.calls):
            await asyncio.sleep(0.5 if call == 0 else 1.0)
            gc.collect()
            found.append((tracemalloc.get_traced_memory()[0] - before) / n)
        return found

    tokenizer = load_tokenizer(model_path("nano"))
    before = tracemalloc.get_traced_memory()[0]
    async with asyncio.TaskGroup() as group:
        probing = group.create_task(probe())
        await rollout_bench.play_load(WAITING, tokenizer, n, n, lambda done: None)
    return probing.result()


def transcript_bytes(turns: int, turn_tokens: int, seen_tokens: int, *, entropies: bool) -> float:
    """Traced bytes per token of rows grown as an episode grows them."""
    rows = []
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        row = Transcript().append(Segment(Origin.PROMPT, ids_array(range(40))))
        for _ in range(turns):
            ids, logprobs = ids_array(range(turn_tokens)), floats_array([-0.5] * turn_tokens)
            extra = floats_array([0.5] * turn_tokens) if entropies else None
            row = row.append(Segment(Origin.MODEL, ids, logprobs, 3, entropies=extra))
            row = row.append(Segment(Origin.OBSERVATION, ids_array(range(seen_tokens))))
        rows.append(row)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown / sum(len(row) for row in rows)


def memory(n: int) -> dict[str, object]:
    """Bytes of a waiting episode, and of a transcript's token."""
    study(replace(WAITING), 8, 8)  # imports and caches
    tracemalloc.start()
    waiting = run_virtually(_waiting_bytes(n))
    tracemalloc.stop()
    return {
        "waiting_episode_bytes_by_call": [round(x) for x in waiting],
        "waiting_includes": "transcript, text of the conversation, environment and tool",
        "waiting_target": "under 50 kB beside its transcript and tool state",
        "transcript_bytes_per_token": {
            "3 turns of 128 + 32": round(transcript_bytes(3, 128, 32, entropies=False), 1),
            "3 turns of 128 + 32, entropies": round(
                transcript_bytes(3, 128, 32, entropies=True), 1
            ),
            "8 turns of 512 + 256": round(transcript_bytes(8, 512, 256, entropies=False), 1),
        },
        "transcript_target": "at most 16 bytes a token",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    started = about_this_machine()
    record = {
        "schema_version": 1,
        "what": f"{MANY} episodes of 4 turns and 3 tool calls, {FEW} and {MANY} at once",
        "machine": started,
        "cost": cost(options.repetitions),
        "memory": memory(1024),
    }
    print(json.dumps({"cost": record["cost"], "memory": record["memory"]}, indent=1))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
