"""What GRPO makes of the shipped small models in the environments that are not maths.

    OMP_NUM_THREADS=1 python benchmarks/environments.py [--seeds 3] [--tasks 256] [--only search_qa,lake]

For each environment and seed the same test tasks are played with the same sampling seeds by the model
as it is shipped, after a training run with lr=0 (the control, which must change nothing), and after
`agentrl train env=<name>` with its own defaults. An environment passes when the lower end of the 95 %
interval after training is above the start, the control equals the start, and training took less than
five minutes. Writes benchmarks/results/environments.json after every run and takes up what it holds for
the same settings; prints one table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import monotonic

from machine import about_this_machine

from agentrl.compose import compose
from agentrl.train.run import evaluate, train

RESULTS = Path(__file__).parent / "results" / "environments.json"
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "search_qa": ("env=search_qa",),
    "memory_qa": ("env=memory_qa",),
    "delethink": ("env=delethink",),
    "lake": ("env=gym", "env.id=FrozenLake-v1", "env.arguments.is_slippery=false"),
}
"""Words of each; everything else is its own default."""
AT_MOST_S = 300.0
CONTROL_STEPS = 4


def accuracy(words: Sequence[str], folder: Path, tasks: int) -> dict[str, float]:
    """Sampled accuracy on the test split, with its 95 % interval."""
    place = [f"dir={folder}", f"eval.tasks={tasks}", "eval.split=test"]
    found = evaluate(compose([*words, *place]), sinks=(), command="benchmark").accuracy
    return {"value": found.value, "low": found.low, "high": found.high}


def one_run(words: Sequence[str], seed: int, tasks: int, work: Path) -> dict[str, object]:
    """Start, control and result of one seed."""
    seeded = [*words, f"seed={seed}"]
    start = accuracy(seeded, work / "start", tasks)
    still = [
        "learner.lr=0",
        f"train.steps={CONTROL_STEPS}",
        "eval.every=0",
        f"dir={work / 'still'}",
    ]
    train(compose([*seeded, *still]), sinks=(), command="benchmark")
    control = accuracy([*seeded, f"model={work / 'still'}"], work / "control", tasks)
    began = monotonic()
    train(compose([*seeded, "eval.every=0", f"dir={work / 'run'}"]), sinks=(), command="benchmark")
    seconds = monotonic() - began
    after = accuracy([*seeded, f"model={work / 'run'}"], work / "after", tasks)
    lines = (work / "run" / "metrics.jsonl").read_text().splitlines()
    return {
        "start": start,
        "control": control,
        "after": after,
        "train_s": round(seconds, 1),
        "reward_by_step": [round(json.loads(line)["reward"], 3) for line in lines],
    }


def passes(run: Mapping) -> bool:
    """Learnt, in time, and nothing was learnt without a learning rate."""
    learnt = run["after"]["low"] > run["start"]["value"]
    return learnt and run["control"] == run["start"] and run["train_s"] < AT_MOST_S


def table(runs: Mapping[str, Mapping[str, Mapping]]) -> str:
    """A line per environment: means over seeds, and the worst lower end."""
    lines = [
        f"{'':10} {'start':>7} {'lr=0':>7} {'after':>7} {'worst low':>9} {'train s':>8}  holds"
    ]
    for name, seeds in runs.items():
        found = list(seeds.values())
        start, control, after = (
            fmean(run[key]["value"] for run in found) for key in ("start", "control", "after")
        )
        low, slowest = (
            min(run["after"]["low"] for run in found),
            max(run["train_s"] for run in found),
        )
        held = f"{sum(map(passes, found))} of {len(found)}"
        lines.append(
            f"{name:10} {start:7.3f} {control:7.3f} {after:7.3f} {low:9.3f} {slowest:8.0f}  {held}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--only", default=",".join(ENVIRONMENTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = {"tasks": options.tasks}
    stored = json.loads(options.results.read_text()) if options.results.is_file() else {}
    runs = stored["runs"] if stored.get("settings") == settings else {}
    for name in options.only.split(","):
        for seed in range(options.seeds):
            if str(seed) in runs.setdefault(name, {}):
                continue
            with TemporaryDirectory() as work:
                run = one_run(ENVIRONMENTS[name], seed, options.tasks, Path(work))
            runs[name][str(seed)] = run
            print(f"{name} seed {seed}: {run['start']['value']:.3f} -> {run['after']['value']:.3f}, "
                  f"{run['train_s']:.0f} s", flush=True)  # fmt: skip
            record = {"schema_version": 1, "settings": settings, "machine": about_this_machine(),
                      "runs": runs}  # fmt: skip
            options.results.write_text(json.dumps(record, indent=1) + "\n")
    print(table(runs))
    return 0 if all(passes(run) for seeds in runs.values() for run in seeds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
