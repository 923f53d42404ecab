"""Every core method on the shipped model, beside a control that learns nothing.

    python benchmarks/methods.py [--seeds 3] [--steps 30] [--tasks 384] [--only grpo,otc_grpo]

For each seed the same test tasks are played with the same sampling seeds by the model before (the
control: training with lr=0 changes no weight) and after `agentrl train env=retool_math recipe=<method>`.
The gain is the mean difference per task, paired, with a 95 % interval over seeds x tasks. For OTC the
calls, the productivity and the accuracy on the families that nobody solves without code are shown
beside those of the default, the same GRPO without OTC. Writes benchmarks/results/methods.json and
docs/methods.md. About 45 minutes on two cores; what the JSON holds for the same settings is not run again.
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

from agentrl.compose import compose
from agentrl.train.run import evaluate, train
from agentrl.trajectory_json import from_line

HERE = Path(__file__).parent
METHODS = (
    "default", "ppo", "grpo", "dr_grpo", "rloo", "reinforce_pp", "dapo", "gspo", "cispo", "gppo",
    "lite_ppo", "otc_grpo",
)  # fmt: skip
DEFAULT = "default"
"""No recipe: GRPO with a token mean and no KL term, which OTC adds its shaper to."""
GAIN = 0.15
"""Least gain in sampled accuracy that each method has to show, in every interval's lower end."""
KEPT = 0.95
"""Share of GRPO's accuracy that OTC has to keep where code is needed."""
UNSOLVED = 0.05
"""A family needs code when the untrained model without its tool solves less than this of it."""


def played(words: Sequence[str], folder: Path, tasks: int, seed: int) -> dict[str, object]:
    """Per task whether it was solved, its family and its calls."""
    place = [f"dir={folder}", f"eval.tasks={tasks}", f"seed={seed}"]
    evaluate(compose([*words, *place]), sinks=(), command="benchmark")
    lines = (folder / "trajectories.jsonl").read_text().splitlines()
    trajectories = sorted(map(from_line, lines), key=lambda t: t.task.id)
    return {
        "right": [int(t.correct) for t in trajectories],
        "calls": [t.n_calls for t in trajectories],
        "family": [str(t.task.metadata["family"]) for t in trajectories],
        "task": [t.task.id for t in trajectories],
    }


def one_run(method: str, seed: int, options: argparse.Namespace, work: Path) -> dict[str, object]:
    """Train once from the shipped model and play the test tasks."""
    folder = work / f"{method}-{seed}"
    chosen = [] if method == DEFAULT else [f"recipe={method}"]
    words = ["env=retool_math", *chosen, f"train.steps={options.steps}", "eval.every=0"]
    started = monotonic()
    train(compose([*words, f"seed={seed}", f"dir={folder}"]), sinks=(), command="benchmark")
    seconds = monotonic() - started
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    after = played(
        ["env=retool_math", f"model={folder}"], work / f"{method}-{seed}-after", options.tasks, seed
    )
    print(
        f"{method} seed {seed}: {seconds:.0f} s, accuracy {fmean(after['right']):.3f}", flush=True
    )
    return {
        "train_s": round(seconds, 1),
        "after": after,
        "accuracy_by_step": [round(line["accuracy"], 3) for line in lines],
        "calls_by_step": [round(line["calls"], 3) for line in lines],
        "entropy_by_step": [round(line.get("entropy", 0.0), 4) for line in lines],
        "gap_max": max(line.get("gap_max", 0.0) for line in lines),
    }


def gain(method: Mapping, control: Mapping) -> dict[str, float]:
    """Mean difference per task against the control, with its 95 % interval over seeds x tasks."""
    differences = [
        after - before
        for seed, run in method.items()
        for after, before in zip(run["after"]["right"], control[seed]["right"], strict=True)
    ]
    half = 1.96 * stdev(differences) / sqrt(len(differences))
    mean = fmean(differences)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summary(method: Mapping, needing_code: frozenset[str]) -> dict[str, float]:
    """Accuracy, calls, productivity, and accuracy where code is needed, over all seeds."""
    after = [run["after"] for run in method.values()]
    right = [x for a in after for x in a["right"]]
    calls = [x for a in after for x in a["calls"]]
    hard = [
        x for a in after for x, f in zip(a["right"], a["family"], strict=True) if f in needing_code
    ]
    return {
        "accuracy": fmean(right),
        "calls": fmean(calls),
        "productivity": sum(right) / max(sum(calls), 1),
        "accuracy_needing_code": fmean(hard),
        "train_s": fmean(run["train_s"] for run in method.values()),
    }


def families_needing_code(found: Mapping) -> frozenset[str]:
    """Families that the model without its tool hardly ever solves."""
    solved: dict[str, list[int]] = {}
    for right, family in zip(found["right"], found["family"], strict=True):
        solved.setdefault(family, []).append(right)
    return frozenset(name for name, rights in solved.items() if fmean(rights) < UNSOLVED)


def measure(options: argparse.Namespace, methods: Sequence[str]) -> dict:
    """Everything, reusing what the JSON already holds for the same settings."""
    results: Path = options.results
    settings = {"seeds": options.seeds, "steps": options.steps, "tasks": options.tasks}
    stored = json.loads(results.read_text()) if results.is_file() else {}
    if stored.get("settings") != settings:
        stored = {"settings": settings, "control": {}, "methods": {}}
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        for seed in map(str, range(options.seeds)):
            if seed not in stored["control"]:
                place = work / f"control-{seed}"
                stored["control"][seed] = played(
                    ["env=retool_math"], place, options.tasks, int(seed)
                )
        if "no_tool" not in stored:
            words = ["env=retool_math", "env.tools=none"]
            stored["no_tool"] = played(words, work / "no-tool", options.tasks, 0)
        for method in methods:
            runs = stored["methods"].setdefault(method, {})
            for seed in range(options.seeds):
                if str(seed) not in runs:
                    runs[str(seed)] = one_run(method, seed, options, work)
                    results.write_text(json.dumps(stored) + "\n")
    stored["machine"] = about_this_machine()
    return stored


def report(stored: dict, options: argparse.Namespace) -> int:
    """Write the page and the JSON; exit 1 when a claim does not hold."""
    least: float = options.gain
    control, needing = stored["control"], families_needing_code(stored["no_tool"])
    rows = {
        name: summary(runs, needing) | {"gain": gain(runs, control)}
        for name, runs in stored["methods"].items()
    }
    claims = {
        f"{name} gains at least {least}": row["gain"]["low"] >= least for name, row in rows.items()
    }
    if {"otc_grpo", DEFAULT} <= set(rows):
        otc, grpo = rows["otc_grpo"], rows[DEFAULT]
        claims["OTC calls less than GRPO"] = otc["calls"] < grpo["calls"]
        claims[f"OTC keeps {KEPT} of GRPO's accuracy where code is needed"] = (
            otc["accuracy_needing_code"] >= KEPT * grpo["accuracy_needing_code"]
        )
    stored |= {"summary": rows, "needing_code": sorted(needing), "claims": claims}
    options.results.write_text(json.dumps(stored) + "\n")
    options.page.parent.mkdir(exist_ok=True)
    options.page.write_text(page(stored))
    for claim, holds in claims.items():
        print(f"{'ok  ' if holds else 'FAIL'} {claim}")
    return 0 if all(claims.values()) else 1


def page(stored: Mapping) -> str:
    """The table as Markdown."""
    settings = stored["settings"]
    before = fmean(x for found in stored["control"].values() for x in found["right"])
    lines = [
        "# Methods beside each other",
        "",
        f"Each line: {settings['steps']} steps of 16 tasks x 8 samples on `retool_math` from the",
        f"shipped model, {settings['seeds']} seeds, {settings['tasks']} test tasks per seed, sampled at",
        f"temperature 1. The control, training with `lr=0`, stays at {before:.3f}. The gain is the mean",
        "difference per task with the same sampling seeds, with its 95 % interval.",
        "`python benchmarks/methods.py` makes this page; the numbers are in",
        "`benchmarks/results/methods.json`.",
        "",
        "| `recipe=` | accuracy | gain (95 %) | calls | right per call | right where code is needed | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in stored["summary"].items():
        found = row["gain"]
        lines.append(
            f"| {name} | {row['accuracy']:.3f} | {found['mean']:+.3f} ({found['low']:+.3f} to "
            f"{found['high']:+.3f}) | {row['calls']:.2f} | {row['productivity']:.2f} | "
            f"{row['accuracy_needing_code']:.3f} | {row['train_s']:.0f} |"
        )
    lines += [
        "",
        "`default` is no recipe: GRPO with a token mean and no KL term, to which `otc_grpo` adds its",
        "shaper.",
        "",
        "Code is needed in "
        + ", ".join(f"`{name}`" for name in stored["needing_code"])
        + ": the untrained",
        f"model without its tool solves less than {UNSOLVED:.0%} of them.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure what is asked for and write all that is known."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=384)
    parser.add_argument("--only", default=",".join(METHODS), help="methods, separated by commas")
    parser.add_argument("--gain", type=float, default=GAIN, help="least gain to show")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "methods.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "methods.md")
    options = parser.parse_args()
    return report(measure(options, options.only.split(",")), options)


if __name__ == "__main__":
    sys.exit(main())
