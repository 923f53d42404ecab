"""OTC beside GRPO where the tool is sometimes needed: what is saved, and that nothing is lost.

    python benchmarks/otc.py [--seeds 3] [--steps 80] [--tasks 384] [--only grpo,otc_grpo,otc_ppo]

Half of the tasks (`parity`, `reverse`) can be solved without code, half (`mul`, `powmod`) cannot. Every
method starts from the shipped model and trains on the same tasks with the same seeds; the test tasks
are played as in benchmarks/methods.py. Shown are calls, right answers per call (tool productivity, the
paper's TP) and accuracy, where code is needed and where it is not. `guarded` rests while
accuracy is lost, which must cost no more than it does elsewhere (the collapse it is there for is shown
by tests/rewards/test_otc_guard.py: it takes tasks that a guess solves more often than not). Warnings of
a collapse are counted. Writes benchmarks/results/otc.json after every run. About a minute a run.
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
from methods import played

from agentrl.compose import compose
from agentrl.train.run import train

RESULTS = Path(__file__).parent / "results" / "otc.json"
NEEDING = frozenset({"mul", "powmod"})
"""Families that the model without its tool never solves (benchmarks/results/arpo.json)."""
FREE = frozenset({"parity", "reverse"})
"""Families it solves without."""
ENV = ("env=retool_math", f"env.families=[{','.join(sorted(NEEDING | FREE))}]")
METHODS: Mapping[str, tuple[str, ...]] = {
    "grpo": (),
    "otc_grpo": ("recipe=otc_grpo",),
    "otc_guarded": ("algo.shapers=[{name: otc, form: grpo, keep: 0.05}]",),
    "ppo": ("recipe=otc_ppo", "algo.shapers=[]"),
    "otc_ppo": ("recipe=otc_ppo",),
}
"""Words of each; `ppo` is what OTC-PPO adds its shaper to."""
BESIDE: Mapping[str, str] = {"otc_grpo": "grpo", "otc_guarded": "grpo", "otc_ppo": "ppo"}
KEPT = 0.95
"""Share of the accuracy where code is needed that has to be kept."""
SAVED = 0.8
"""Most of the calls that may be left."""


class Heard:
    """A sink that counts the warnings of a collapse."""

    def __init__(self) -> None:
        self.collapses = 0

    def start(self, total_steps: int, summary: Mapping[str, str]) -> None:
        """Nothing to do."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing to do."""

    def note(self, text: str) -> None:
        """Counts."""
        self.collapses += text.startswith("warning, tool collapse")

    def close(self) -> None:
        """Nothing to do."""


def one_run(name: str, seed: int, options: argparse.Namespace, work: Path) -> dict[str, object]:
    """Train from the shipped model and play the test tasks."""
    folder = work / f"{name}-{seed}"
    words = [*ENV, *METHODS[name], f"train.steps={options.steps}", "eval.every=0"]
    started = monotonic()
    heard = Heard()
    train(compose([*words, f"seed={seed}", f"dir={folder}"]), sinks=(heard,), command="benchmark")
    seconds = monotonic() - started
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    place = [*ENV, *(w for w in METHODS[name] if w.startswith("env.")), f"model={folder}"]
    after = played(place, work / f"{name}-{seed}-after", options.tasks, seed)
    print(
        f"{name} seed {seed}: {seconds:.0f} s, accuracy {fmean(after['right']):.3f}, calls "
        f"{fmean(after['calls']):.3f}",
        flush=True,
    )
    return {
        "words": words,
        "train_s": round(seconds, 1),
        "after": after,
        "collapse_warnings": heard.collapses,
        "calls_hard_by_step": [line.get("calls_hard") for line in lines],
        "calls_by_step": [round(line["calls"], 3) for line in lines],
        "accuracy_by_step": [round(line["accuracy"], 3) for line in lines],
    }


def measure(options: argparse.Namespace) -> dict:
    """Every run that the JSON does not hold yet."""
    settings = {"seeds": options.seeds, "steps": options.steps, "tasks": options.tasks}
    stored = json.loads(options.results.read_text()) if options.results.is_file() else {}
    if stored.get("settings") != settings:
        stored = {"settings": settings, "methods": {}}
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        if "before" not in stored:
            stored["before"] = played(ENV, work / "before", options.tasks, 0)
        for seed in map(str, range(options.seeds)):
            for name in options.only.split(","):
                runs = stored["methods"].setdefault(name, {})
                if seed not in runs:
                    runs[seed] = one_run(name, int(seed), options, work)
                    options.results.write_text(json.dumps(stored) + "\n")
    return stored | {"machine": about_this_machine()}


def summary(found: Sequence[Mapping]) -> dict[str, float]:
    """Calls, productivity and accuracy of played tasks, in all and by need of code."""
    tasks = [x for a in found for x in zip(a["right"], a["calls"], a["family"], strict=True)]
    needing = [x for x in tasks if x[2] in NEEDING]
    free = [x for x in tasks if x[2] in FREE]
    return {
        "accuracy": fmean(right for right, _, _ in tasks),
        "calls": fmean(calls for _, calls, _ in tasks),
        "productivity": sum(right for right, _, _ in tasks) / max(1, sum(c for _, c, _ in tasks)),
        "accuracy_needing_code": fmean(right for right, _, _ in needing),
        "calls_needing_code": fmean(calls for _, calls, _ in needing),
        "accuracy_without_need": fmean(right for right, _, _ in free),
        "calls_without_need": fmean(calls for _, calls, _ in free),
    }


def report(stored: dict, options: argparse.Namespace) -> int:
    """Print the table, write the JSON; exit 1 when a claim does not hold."""
    rows = {"before": summary([stored["before"]])}
    rows |= {
        name: summary([run["after"] for run in runs.values()])
        for name, runs in stored["methods"].items()
        if runs
    }
    claims: dict[str, bool] = {}
    for name, base in BESIDE.items():
        if {name, base} <= set(rows):
            ours, theirs = rows[name], rows[base]
            claims[f"{name} calls at most {SAVED} of {base}"] = (
                ours["calls"] <= SAVED * theirs["calls"]
            )
            claims[f"{name} keeps {KEPT} of the accuracy where code is needed"] = (
                ours["accuracy_needing_code"] >= KEPT * theirs["accuracy_needing_code"]
            )
    warned = sum(
        run["collapse_warnings"] for runs in stored["methods"].values() for run in runs.values()
    )
    claims["no collapse where code is needed in half of the tasks"] = warned == 0
    stored |= {"summary": rows, "claims": claims}
    options.results.write_text(json.dumps(stored) + "\n")
    print(
        "method             accuracy  calls  per call | needing code: acc calls | without: acc calls"
    )
    for name, row in rows.items():
        print(
            f"{name:18} {row['accuracy']:.3f}     {row['calls']:.3f}  {row['productivity']:.2f}     "
            f"|               {row['accuracy_needing_code']:.3f} {row['calls_needing_code']:.2f}  "
            f"|          {row['accuracy_without_need']:.3f} {row['calls_without_need']:.2f}"
        )
    for claim, holds in claims.items():
        print(f"{'ok  ' if holds else 'FAIL'} {claim}")
    return 0 if all(claims.values()) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and report all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--tasks", type=int, default=384)
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    return report(measure(options), options)


if __name__ == "__main__":
    sys.exit(main())
