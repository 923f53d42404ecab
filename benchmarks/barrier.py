"""One batch of 64 that must all be back: beside the optimum of an event simulation.

    OMP_NUM_THREADS=1 python benchmarks/barrier.py

64 episodes of 3 turns start together, a 0.5 s tool after every turn but the last. The simulation plays
the same turns, of the same lengths, on an engine that loses nothing between requests: whoever is back
from its tool joins at the next step. Its step times are the engine's own, measured at every power of
two just before and after each repetition, prompts and returns included. Writes results/barrier.json.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import about_this_machine
from rollout_world import make_engine, random_model, through_the_loop

from agentrl.engine.base import Engine, Sampling

RESULTS = Path(__file__).parent / "results" / "barrier.json"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
STEPS = 48
PROMPT_TOKENS, CONTEXT_TOKENS, RETURN_TOKENS = 24, 200, 12


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of the engine by batch, as measured."""

    step: Sequence[float]
    """One step, by `BATCHES`."""
    join: Sequence[float]
    """What a step takes more when so many rows join with a prompt."""
    back: Sequence[float]
    """What a step takes more when so many rows come back with a few new tokens."""

    def of(self, what: Sequence[float], n: int) -> float:
        """Interpolated for `n` rows; 0 for none."""
        return float(np.interp(n, (0, *BATCHES), (0.0, *what)))


async def step_times(engine: Engine, seed: int) -> StepTimes:
    """Measured with rows of random ids."""
    rng = np.random.default_rng(seed)
    step, join, back = [], [], []

    async def timed(rows: list[np.ndarray], n_new: int) -> float:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for i, row in enumerate(rows):
                group.create_task(engine.generate(row, Sampling(n_new, seed=seed + i)))
        return time.perf_counter() - started

    for n in BATCHES:
        rows = [rng.integers(0, 255, CONTEXT_TOKENS).astype(np.int32) for _ in range(n)]
        short = [rng.integers(0, 255, PROMPT_TOKENS).astype(np.int32) for _ in range(n)]
        await timed(rows, 1)
        longer = [
            np.concatenate([r, rng.integers(0, 255, RETURN_TOKENS)]).astype(np.int32) for r in rows
        ]
        one_back_s, many_s = await timed(longer, 1), await timed(longer, 1 + STEPS)
        again_s = await timed(longer, 1)
        one_s = await timed(short, 1)
        per_step = (many_s - again_s) / STEPS
        step.append(per_step)
        join.append(max(0.0, one_s - per_step))
        back.append(max(0.0, one_back_s - per_step))
    return StepTimes(step, join, back)


def optimum(times: StepTimes, turns: Sequence[Sequence[int]], tool_s: float) -> float:
    """Seconds until the last episode ends; `turns` holds the tokens of each episode's turns."""
    now, running = 0.0, dict[int, int]()
    position = [0] * len(turns)
    ready: list[tuple[float, int]] = [(0.0, i) for i in range(len(turns))]
    heapq.heapify(ready)
    while ready or running:
        if not running:
            now = max(now, ready[0][0])
        joined = returned = 0
        while ready and ready[0][0] <= now:
            _, i = heapq.heappop(ready)
            running[i] = turns[i][position[i]]
            joined, returned = joined + (position[i] == 0), returned + (position[i] > 0)
        now += times.of(times.step, len(running))
        now += times.of(times.join, joined) + times.of(times.back, returned)
        for i in [i for i, left in running.items() if left == 1]:
            del running[i]
            position[i] += 1
            if position[i] < len(turns[i]):
                heapq.heappush(ready, (now + tool_s, i))
        running = {i: left - 1 for i, left in running.items()}
    return now


async def measure(name: str, options: argparse.Namespace) -> dict:
    """The batch's wall time and its optimum, one pair per repetition."""
    with random_model(options.model) as folder:
        engine = make_engine(name, folder, options.batch)
        await engine.open()
        walls, optima, last = [], [], None
        for repetition in range(-1, options.repetitions):
            before = await step_times(engine, 1000 * (repetition + 1))
            wall_s, remembering = await through_the_loop(
                engine, folder, episodes=options.batch, in_flight=options.batch, turns=3,
                tool_s=options.tool_s, seed=repetition + 1,
            )  # fmt: skip
            after = await step_times(engine, 1000 * (repetition + 1) + 500)
            turns = [[r.n_new for r in chain] for chain in remembering.asked.values()]
            last = before
            if repetition >= 0:
                walls.append(wall_s)
                optima.append(
                    (optimum(before, turns, options.tool_s) + optimum(after, turns, options.tool_s))
                    / 2
                )
        await engine.close()
    ratios = [a / b for a, b in zip(walls, optima, strict=True)]
    return {
        "engine": name, "model": options.model, "batch": options.batch, "tool_s": options.tool_s,
        "seconds": walls, "optimum_s": optima, "step_ms": [round(1e3 * s, 2) for s in last.step],
        "ratio": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3), "target": "at most 1.10",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--model", default="2.5M")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tool-s", type=float, default=0.5)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    started = about_this_machine()
    lines = []
    for name in options.engines:
        line = asyncio.run(measure(name, options))
        lines.append(line)
        print(f"{name:13} {statistics.median(line['seconds']):.2f} s, optimum "
              f"{statistics.median(line['optimum_s']):.2f} s: {line['ratio']:.3f} "
              f"({line['ratio_min']:.3f} .. {line['ratio_max']:.3f})")  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    record = {"schema_version": 1, "what": "64 episodes of 3 turns with a tool between them",
              "machine": started, "lines": lines}  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
