"""Is the path right on real problems? GSM8K's own annotations played as code through the whole loop.

    python benchmarks/gsm8k_path.py [--data ../shared/data] [--limit N]

A scripted policy writes each item's calculator annotations as code turns and answers with the last
sandbox output. Worked out beforehand without running anything: the items whose last annotation
evaluates to the gold. Exactly those must be right; with one operand corrupted about none may be.
Writes benchmarks/results/gsm8k_path.json, the list of unreachable items included.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import about_this_machine

from agentrl.compose import compose
from agentrl.data.tasks import load_tasks
from agentrl.train.run import evaluate
from agentrl.trajectory import Trajectory
from agentrl.trajectory_json import from_line
from agentrl_envs.gsm8k import reaches_gold

RESULTS = Path(__file__).parent / "results" / "gsm8k_path.json"
LIMITS = (
    "env.style=plain", "env.max_tokens=16384", "env.turn_tokens=1024", "env.max_turns=32",
    "env.max_calls=32", "env.observation_tokens=1024",
)  # fmt: skip


def played(path: Path, script: str, n_tasks: int, folder: Path) -> dict[str, Trajectory]:
    """Task id -> its trajectory under the scripted policy."""
    words = ["env=retool_math", *LIMITS, f"data.path={path}", f"eval.tasks={n_tasks}"]
    words += ["engine=scripted", f"engine.script={script}", f"dir={folder}"]
    evaluate(compose(words), sinks=(), command="benchmark")
    lines = (folder / "trajectories.jsonl").read_text().rstrip("\n").split("\n")
    found = [from_line(line) for line in lines]
    return {trajectory.task.id: trajectory for trajectory in found}


def one_split(path: Path, limit: int | None, work: Path) -> dict[str, object]:
    """Scores of one file, plain and corrupted, against what was worked out beforehand."""
    tasks = load_tasks(path, limit=limit)
    reachable = {task.id for task in tasks if reaches_gold(task)}
    right = played(path, "gsm8k_annotations", len(tasks), work / f"{path.stem}-right")
    wrong = played(path, "gsm8k_corrupted", len(tasks), work / f"{path.stem}-wrong")
    scored = {i for i, t in right.items() if t.correct}
    found = {
        "items": len(tasks),
        "reachable": len(reachable),
        "reachable_share": round(len(reachable) / len(tasks), 4),
        "right_among_reachable": len(scored & reachable),
        "right_among_the_rest": sorted(scored - reachable),
        "missed": sorted(reachable - scored),
        "corrupted_right": sum(wrong[i].correct for i in reachable),
        "calls": sum(t.n_calls for t in right.values()),
        "errors": sum(t.error is not None for t in [*right.values(), *wrong.values()]),
        "undecided": sum(t.excluded is not None for t in right.values()),
        "unreachable": [task.id for task in tasks if task.id not in reachable],
    }
    print(path.name, {k: v for k, v in found.items() if k != "unreachable"}, flush=True)
    return found


def main() -> int:
    """Both splits; exit 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    with TemporaryDirectory() as work:
        splits = {
            name: one_split(options.data / f"gsm8k_{name}.jsonl", options.limit, Path(work))
            for name in ("test", "train")
        }
    RESULTS.write_text(json.dumps({"splits": splits, "machine": about_this_machine()}, indent=1))
    holds = all(holds_for(found) for found in splits.values())
    print("ok" if holds else "FAIL", f"wrote {RESULTS.name}")
    return 0 if holds else 1


def holds_for(found: Mapping[str, object]) -> bool:
    """All reachable right, the rest wrong, and corruption destroys the score."""
    reachable = int(str(found["reachable"]))
    return (
        found["right_among_reachable"] == reachable
        and not found["right_among_the_rest"]
        and int(str(found["corrupted_right"])) <= 0.01 * reachable
    )


if __name__ == "__main__":
    sys.exit(main())
