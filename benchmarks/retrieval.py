"""Search back ends side by side on 50,000 made-up documents of 60 words, one query at a time.

    OMP_NUM_THREADS=1 python benchmarks/retrieval.py [--documents 50000] [--queries 200] [--rounds 5]

Two worlds: `even`, whose 20,000 words are equally frequent, and `zipf`, where the word of rank r occurs
as often as 1 / r, as in natural text. Documents are made by a seeded generator; a query is five distinct
words of one document; three hits are asked for. In every round the back ends take turns query by query,
each in memory and with one thread; the first round warms up and is left out. `ms` is one blocking search,
`tool_ms` one search as the search tool awaits it, the hop to a thread included. Quartiles tell the
spread. Prints one table and writes benchmarks/results/retrieval.json. What counts: FTS5, which needs no
package, under 1 ms a query in the even world.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from machine import about_this_machine

from agentrl.registry import resolve
from agentrl.retrieval import Passage

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
TARGET_MS = 1.0
"""Longest median of FTS5 in the even world."""
WORLDS = ("even", "zipf")
SIDES = ("fts5", "bm25s", "tantivy")
N_WORDS, LENGTH, ASKED, K = 20_000, 60, 5, 3


def made_up(world: str, n: int, n_queries: int) -> tuple[list[Passage], list[str]]:
    """Documents and queries."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = np.array(["".join(rng.choice(syllables, 3)) + str(i) for i in range(N_WORDS)])
    weights = np.ones(N_WORDS) if world == "even" else 1 / np.arange(1, N_WORDS + 1)
    chosen = rng.choice(N_WORDS, (n, LENGTH), p=weights / weights.sum())
    passages = [Passage(f"{i:06}", "", " ".join(words[row])) for i, row in enumerate(chosen)]
    queries = []
    for row in chosen[rng.choice(n, n_queries, replace=False)]:
        queries.append(" ".join(words[rng.permutation(np.unique(row))[:ASKED]]))
    return passages, queries


async def measured(world: str, n: int, n_queries: int, rounds: int) -> dict[str, object]:
    """Every side's times in one world."""
    passages, queries = made_up(world, n, n_queries)
    retrievers, built_s = {}, {}
    for side in SIDES:
        started = time.perf_counter()
        retrievers[side] = resolve("retriever", side)(passages=passages, threads=1)
        built_s[side] = round(time.perf_counter() - started, 2)
    blocking: dict[str, list[float]] = {side: [] for side in SIDES}
    awaited: dict[str, list[float]] = {side: [] for side in SIDES}
    first = dict.fromkeys(SIDES, 0)
    for turn in range(rounds + 1):
        for number, query in enumerate(queries):
            for place in range(len(SIDES)):
                side = SIDES[(number + turn + place) % len(SIDES)]
                started = time.perf_counter()
                hits = retrievers[side].find(query, K)
                between = time.perf_counter()
                await retrievers[side].search([query], k=K)
                if turn:
                    blocking[side].append((between - started) * 1e3)
                    awaited[side].append((time.perf_counter() - between) * 1e3)
                wanted = set(query.split())
                first[side] += bool(hits) and wanted <= set(hits[0].passage.text.split())
    for retriever in retrievers.values():
        await retriever.close()
    asked = (rounds + 1) * len(queries)
    return {
        side: {
            "build_s": built_s[side],
            "ms": spread(blocking[side]),
            "tool_ms": spread(awaited[side]),
            "of_fts5": round(median(blocking[side]) / median(blocking["fts5"]), 3),
            "first_holds_all_words": round(first[side] / asked, 3),
        }
        for side in SIDES
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = quantiles(values, n=4)
    tail = sorted(values)[int(0.99 * len(values))]
    found = {"median": middle, "quartile_1": low, "quartile_3": high, "p99": tail}
    return {name: round(value, 4) for name, value in found.items()}


def shown(world: str, side: str, line: dict[str, object]) -> str:
    ms: dict[str, float] = line["ms"]  # type: ignore[assignment]
    tool: dict[str, float] = line["tool_ms"]  # type: ignore[assignment]
    return (
        f"{world:5} {side:8} build {line['build_s']:6.2f} s   query {ms['median']:7.3f} ms "
        f"({ms['quartile_1']:.3f} .. {ms['quartile_3']:.3f}, p99 {ms['p99']:.2f})   as a tool "
        f"{tool['median']:7.3f} ms   {line['of_fts5']:.2f} of fts5   "
        f"best hit holds all words: {line['first_holds_all_words']:.0%}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("set OMP_NUM_THREADS=1: all sides must use the same threads")
    machine = about_this_machine()
    worlds: dict[str, dict[str, object]] = {}
    for world in WORLDS:
        worlds[world] = asyncio.run(
            measured(world, options.documents, options.queries, options.rounds)
        )
        for side, line in worlds[world].items():
            print(shown(world, side, line), flush=True)  # type: ignore[arg-type]
    fts5 = worlds["even"]["fts5"]["ms"]["median"]  # type: ignore[index]
    record = {
        "machine": machine,
        "libraries": {name: version(name) for name in ("bm25s", "tantivy")},
        "setting": vars(options) | {"words": N_WORDS, "length": LENGTH, "asked": ASKED, "k": K},
        "target_ms": TARGET_MS,
        "holds": fts5 < TARGET_MS,
        "worlds": worlds,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{'ok  ' if fts5 < TARGET_MS else 'MISS'} fts5 {fts5:.3f} ms (target {TARGET_MS} ms)")
    return 0 if fts5 < TARGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
