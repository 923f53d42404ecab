"""ARPO on the shipped model beside GRPO and beside branching by chance: what the calls bought.

    python benchmarks/arpo.py [--seeds 3] [--steps 60] [--tasks 384] [--only grpo,arpo] [--again]

Every method trains on the same tasks with the same group size and seeds from the shipped model; the
test tasks are played as in benchmarks/methods.py. Counted are the calls really executed and the tokens
really generated in the rollouts (branches share their prefixes). `arpo_rise` is ARPO with tau = alpha:
only a rise of the entropy branches. Writes benchmarks/results/arpo.json after every run, and takes up
what it holds for the same settings. About a minute a run on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from time import monotonic

from machine import about_this_machine
from methods import families_needing_code, played

from agentrl.compose import compose
from agentrl.train.run import train

RESULTS = Path(__file__).parent / "results" / "arpo.json"
METHODS: Mapping[str, tuple[str, ...]] = {
    "grpo": (),
    "arpo": ("recipe=arpo",),
    "arpo_hard": ("recipe=arpo_hard", "algo.minibatches=1"),
    "arpo_code": ("recipe=arpo_code",),
    "arpo_fixed": ("recipe=arpo_fixed",),
    "arpo_rise": ("recipe=arpo", "rollout.plan.tau=0.5"),
    "aepo": ("recipe=aepo", "algo.minibatches=1"),
}
"""Words of each; `grpo` is the default, one optimiser step a batch everywhere."""
SUMMED = ("n_executed", "n_generated", "branches")
SHARE_OF_CALLS = 0.6
"""Most of GRPO's executed calls that ARPO may need."""
NO_WORSE = -0.03
"""Lower end of the difference in accuracy that counts as no worse."""


def one_run(name: str, seed: int, options: argparse.Namespace, work: Path) -> dict[str, object]:
    """Train from the shipped model and play the test tasks."""
    folder = work / f"{name}-{seed}"
    words = ["env=retool_math", *METHODS[name], f"train.steps={options.steps}", "eval.every=0"]
    started = monotonic()
    train(compose([*words, f"seed={seed}", f"dir={folder}"]), sinks=(), command="benchmark")
    seconds = monotonic() - started
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    after = played(
        ["env=retool_math", f"model={folder}"], work / f"{name}-{seed}-after", options.tasks, seed
    )
    print(f"{name} seed {seed}: {seconds:.0f} s, {fmean(after['right']):.3f}", flush=True)
    return {
        "words": words,
        "train_s": round(seconds, 1),
        "after": after,
        **{metric: [line[metric] for line in lines] for metric in SUMMED},
        "accuracy_by_step": [round(line["accuracy"], 3) for line in lines],
        "calls_by_step": [round(line["calls"], 3) for line in lines],
    }


def measure(options: argparse.Namespace) -> dict:
    """Every run that the JSON does not hold yet."""
    settings = {"seeds": options.seeds, "steps": options.steps, "tasks": options.tasks}
    stored = json.loads(options.results.read_text()) if options.results.is_file() else {}
    if options.again or stored.get("settings") != settings:
        stored = {"settings": settings, "methods": {}}
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        if "no_tool" not in stored:
            words = ["env=retool_math", "env.tools=none"]
            stored["no_tool"] = played(words, work / "no-tool", options.tasks, 0)
        for seed in map(str, range(options.seeds)):
            for name in options.only.split(","):
                runs = stored["methods"].setdefault(name, {})
                if seed not in runs:
                    runs[seed] = one_run(name, int(seed), options, work)
                    options.results.write_text(json.dumps(stored) + "\n")
    return stored | {"machine": about_this_machine()}


def difference(runs: Mapping, base: Mapping, families: frozenset[str] | None) -> dict[str, float]:
    """Mean difference per task and seed against the base, with its 95 % interval."""
    found = [
        a - b
        for seed, run in runs.items()
        if seed in base
        for a, b, family in zip(
            run["after"]["right"],
            base[seed]["after"]["right"],
            run["after"]["family"],
            strict=True,
        )
        if families is None or family in families
    ]
    half = 1.96 * stdev(found) / sqrt(len(found))
    return {"mean": fmean(found), "low": fmean(found) - half, "high": fmean(found) + half}


def row(runs: Mapping, base: Mapping, needing: frozenset[str]) -> dict[str, object]:
    """One method's numbers over its seeds, beside GRPO's of the same seeds."""
    seeds = [seed for seed in runs if seed in base]
    total = {m: sum(sum(runs[s][m]) for s in seeds) for m in SUMMED}
    other = {m: sum(sum(base[s][m]) for s in seeds) for m in SUMMED}
    after = [runs[s]["after"] for s in seeds]
    return {
        "accuracy": fmean(x for a in after for x in a["right"]),
        "accuracy_needing_code": fmean(
            x for a in after for x, f in zip(a["right"], a["family"], strict=True) if f in needing
        ),
        "calls_after": fmean(x for a in after for x in a["calls"]),
        "against_grpo": difference(runs, base, None),
        "against_grpo_needing_code": difference(runs, base, needing),
        "executed": total["n_executed"],
        "executed_share": total["n_executed"] / other["n_executed"],
        "generated_share": total["n_generated"] / other["n_generated"],
        "branches": total["branches"],
        "train_s": fmean(runs[s]["train_s"] for s in seeds),
    }


def report(stored: dict, options: argparse.Namespace) -> int:
    """Print the table, write the JSON; exit 1 when a claim does not hold."""
    needing = families_needing_code(stored["no_tool"])
    base = stored["methods"]["grpo"]
    rows = {name: row(runs, base, needing) for name, runs in stored["methods"].items()}
    claims: dict[str, bool] = {}
    if "arpo" in rows:
        arpo = rows["arpo"]
        claims = {
            f"ARPO executes at most {SHARE_OF_CALLS} of GRPO's calls": arpo["executed_share"]
            <= SHARE_OF_CALLS,
            "ARPO generates fewer tokens": arpo["generated_share"] < 1,
            "ARPO is no worse": arpo["against_grpo"]["low"] >= NO_WORSE,
            "ARPO is no worse where code is needed": arpo["against_grpo_needing_code"]["low"]
            >= NO_WORSE,
        }
    stored |= {"summary": rows, "needing_code": sorted(needing), "claims": claims}
    options.results.write_text(json.dumps(stored) + "\n")
    print("method      accuracy  -GRPO   needing code  calls x  tokens x  branches")
    for name, found in rows.items():
        print(
            f"{name:11} {found['accuracy']:.3f}    {found['against_grpo']['mean']:+.3f}  "
            f"{found['accuracy_needing_code']:.3f}         {found['executed_share']:.2f}     "
            f"{found['generated_share']:.2f}      {found['branches']:.0f}"
        )
    for claim, holds in claims.items():
        print(f"{'ok  ' if holds else 'FAIL'} {claim}")
    return 0 if all(claims.values()) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and report all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=384)
    parser.add_argument("--only", default="grpo,arpo,arpo_fixed,arpo_rise,aepo")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    return report(measure(options), options)


if __name__ == "__main__":
    sys.exit(main())
