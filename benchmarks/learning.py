"""Does training teach? Three seeds from the shipped model, and the controls that must fail.

    python benchmarks/learning.py [--seeds 3] [--steps 60] [--tasks 512]

For each seed: sampled and greedy accuracy on the disjoint test split before and after `agentrl train
env=retool_math`, with the same tasks and the same sampling seeds. Controls, one seed each: lr=0 gains
nothing; sign-flipped advantages get worse; the trained model without its tool loses. Writes
benchmarks/results/learning.json. About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from machine import about_this_machine
from torch import Tensor

from agentrl.algo.advantage import Outcome
from agentrl.algo.types import Batch
from agentrl.compose import compose
from agentrl.points import Ctx
from agentrl.registry import register
from agentrl.train.run import evaluate, train

RESULTS = Path(__file__).parent / "results" / "learning.json"


class Flipped:
    """GRPO's advantages with the wrong sign: a learner that ascends the wrong hill."""

    def __init__(self) -> None:
        self._right = Outcome()

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """Minus the advantages."""
        return -self._right(batch, ctx)


def measured(words: Sequence[str], folder: Path, tasks: int, seed: int) -> Mapping[str, object]:
    """Sampled and greedy accuracy of one model on the test split."""
    found = {}
    for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        place = [f"dir={folder / name}", f"eval.tasks={tasks}", f"eval.temperature={temperature}"]
        report = evaluate(compose([*words, *place, f"seed={seed}"]), sinks=(), command="benchmark")
        found[name] = [round(x, 4) for x in report.accuracy]
        found[f"{name}_calls"] = round(report.calls, 3)
    return found


def one_run(
    name: str, words: Sequence[str], work: Path, tasks: int, seed: int
) -> dict[str, object]:
    """Train once and measure the result."""
    folder = work / name
    started = monotonic()
    train(compose([*words, f"seed={seed}", f"dir={folder}"]), sinks=(), command="benchmark")
    seconds = monotonic() - started
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    after = measured(["env=retool_math", f"model={folder}"], work / f"{name}-after", tasks, seed)
    result = {
        "name": name,
        "seed": seed,
        "train_s": round(seconds, 1),
        "after": after,
        "gap_max": max(line["gap_max"] for line in lines),
        "probe_gap_max": max(line["probe_gap"] for line in lines),
        "accuracy_by_step": [round(line["accuracy"], 3) for line in lines],
    }
    print(f"{name}: {seconds:.0f} s, after {after}", flush=True)
    return result


def main() -> int:
    """Run all and write the table; exit 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=512)
    options = parser.parse_args()
    register("advantage", "flipped", Flipped)
    base = ["env=retool_math", f"train.steps={options.steps}", "eval.every=0"]
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        runs, before = [], {}
        for seed in range(options.seeds):
            before[seed] = measured(
                ["env=retool_math"], work / f"before-{seed}", options.tasks, seed
            )
            print(f"seed {seed} before: {before[seed]}", flush=True)
            runs.append(one_run(f"seed-{seed}", base, work, options.tasks, seed))
        controls = [
            one_run("lr=0", [*base, "learner.lr=0"], work, options.tasks, 0),
            one_run("flipped", [*base, "algo.advantage.name=flipped"], work, options.tasks, 0),
        ]
        no_tool = measured(
            ["env=retool_math", f"model={work / 'seed-0'}", "env.tools=none"],
            work / "no-tool", options.tasks, 0,
        )  # fmt: skip
    return report(before, runs, controls, no_tool)


def report(
    before: Mapping, runs: Sequence[Mapping], controls: Sequence[Mapping], no_tool: Mapping
) -> int:
    """Print and write the findings and whether each claim holds."""
    start = {seed: found["sampled"][0] for seed, found in before.items()}
    end = {run["seed"]: run["after"]["sampled"][0] for run in runs}
    lr0, flipped = (control["after"]["sampled"][0] for control in controls)
    claims = {
        "sampled accuracy before is at most 0.75": max(start.values()) <= 0.75,
        "sampled accuracy after is at least 0.90": min(end.values()) >= 0.90,
        "lr=0 gains nothing": lr0 == start[0],
        "flipped advantages get worse": flipped < start[0],
        "without the tool at least 0.15 is lost": end[0] - no_tool["sampled"][0] >= 0.15,
        "engine/learner gap below 1e-4": max(run["gap_max"] for run in runs) < 1e-4,
    }
    table = {
        "before": before, "runs": runs, "controls": controls, "no_tool": no_tool,
        "median_train_s": median(run["train_s"] for run in runs),
        "claims": claims, "machine": about_this_machine(),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")
    for claim, holds in claims.items():
        print(f"{'ok  ' if holds else 'FAIL'} {claim}")
    print(f"median training time {table['median_train_s']} s; wrote {RESULTS.name}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
