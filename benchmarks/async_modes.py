"""What overlapping rollouts and updates buys with a slow tool, and what it costs in accuracy.

    python benchmarks/async_modes.py [--seeds 3] [--steps 60] [--tasks 512] [--pause-s 0.5]

The shipped model on retool_math, where every interpreter call takes `pause-s` longer, in two scenes:
`here`, learner and engine on the same cores; `elsewhere`, where every update waits a second more
without computing, as for a learner on a device of its own (a third of the steps, no accuracy).
Modes take turns within a seed, so that a busy machine slows all of them. Reported per mode: wall
time of a step (a run's mean, its filling and draining included: median and range over seeds;
quartiles of single steps), idle shares, ages of trained tokens, groups dropped as too old, and
sampled accuracy on the test split after the last step. Writes benchmarks/results/async_modes.json.
About 30 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from asyncio import sleep
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, quantiles
from tempfile import TemporaryDirectory
from time import monotonic
from time import sleep as wait
from typing import Any

from machine import about_this_machine

from agentrl.algo.types import Batch
from agentrl.compose import compose
from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepResult
from agentrl.registry import register
from agentrl.train.causal_lm import Precision
from agentrl.train.run import evaluate, train
from agentrl.train.torch_learner import TorchLearner
from agentrl.types import Task
from agentrl_envs.retool_math import RetoolMath

RESULTS = Path(__file__).parent / "results" / "async_modes.json"
MODES: Mapping[str, Sequence[str]] = {
    "sync": ("train.mode=sync",),
    "one_step_off": ("train.mode=one_step_off",),
    "async, 1 version": ("train.mode=async", "train.max_staleness=1"),
    "async, 2 versions": ("train.mode=async", "train.max_staleness=2"),
}
NANO = (
    "env.style=terse", "env.turn_tokens=64", "env.max_tokens=1152", "env.observation_tokens=64",
    "env.max_turns=4", "env.max_calls=4",
)  # fmt: skip
"""What configs/model/nano.yaml brings along, for the folder of a trained one."""
UPDATE_S = 1.0
"""What an update takes longer in the scene `elsewhere`."""


def learner_elsewhere(
    *,
    model: str,
    dtype: Precision,
    seed: int,
    lr: float,
    weight_decay: float,
    max_grad_norm: float,
    warmup_steps: int,
    micro_tokens: int,
) -> TorchLearner:
    """A learner whose updates take longer and leave the cores alone meanwhile."""
    learner = TorchLearner(
        model, dtype=dtype, seed=seed, lr=lr, weight_decay=weight_decay,
        max_grad_norm=max_grad_norm, warmup_steps=warmup_steps, micro_tokens=micro_tokens,
    )  # fmt: skip
    update = learner.update

    def later(batch: Batch, **options: Any) -> Mapping[str, float]:
        """Wait, then update."""
        wait(UPDATE_S)
        return update(batch, **options)

    learner.update = later
    return learner


class SlowMath(Env):
    """retool_math whose calls take longer, as those of a far-away service do."""

    protocol = "retool_bare"

    def __init__(self, *, pause_s: float = 0.5, max_calls: int = 4, call_s: float = 30.0) -> None:
        """`pause_s`: added to every turn that calls a tool."""
        self._inner = RetoolMath(style="terse", max_calls=max_calls, call_s=call_s)
        self._pause_s = pause_s
        self.tools = self._inner.tools

    async def open(self, ctx: Context) -> None:
        """Open what is inside."""
        await self._inner.open(ctx)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The question."""
        return await self._inner.reset(task, seed=seed)

    async def step(self, action: Action) -> StepResult:
        """The answer, late where a tool was called."""
        if action.tool_calls:
            await sleep(self._pause_s)
        return await self._inner.step(action)

    async def close(self) -> None:
        """Close what is inside."""
        await self._inner.close()

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """retool_math's."""
        return self._inner.tasks(split, seed=seed)


def one_run(
    scene: str, name: str, words: Sequence[str], work: Path, tasks: int, seed: int
) -> dict[str, Any]:
    """Train once in one mode, and measure the model unless `tasks` is 0."""
    folder = work / f"{scene}-{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    started = monotonic()
    own = [*words, *MODES[name], f"seed={seed}", f"dir={folder}"]
    train(compose(own), sinks=(), command="benchmark")
    train_s = monotonic() - started
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["time_s"] for line in lines]
    result = {
        "scene": scene,
        "mode": name,
        "seed": seed,
        "train_s": round(train_s, 1),
        "wall_s": round(fmean(steps), 3),
        "step_s": [round(s, 3) for s in steps],
        "accuracy": measured(folder, tasks, seed) if tasks else None,
        **{
            key.replace("/", "_"): round(fmean(line.get(key) or 0.0 for line in lines), 3)
            for key in (
                "idle/learner", "idle/rollouts", "staleness/mean", "staleness/mixed_rows",
                "gate/stale", "ess", "learner_s",
            )
        },
        "staleness_max": max(line.get("staleness/max", 0.0) for line in lines),
    }  # fmt: skip
    print(
        f"{scene} seed {seed} {name}: {result['wall_s']} s a step, accuracy {result['accuracy']}",
        flush=True,
    )
    return result


def measured(folder: Path, tasks: int, seed: int) -> float:
    """Sampled accuracy of a trained model on the test split, with the usual tool."""
    words = ["env=retool_math", *NANO, f"model={folder}", f"eval.tasks={tasks}", f"seed={seed}"]
    found = evaluate(compose([*words, f"dir={folder}-after"]), sinks=(), command="benchmark")
    return round(found.accuracy.value, 4)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per mode of one scene: step times, speed-up over sync seed by seed, means of the rest."""
    table: dict[str, dict[str, Any]] = {}
    sync = {run["seed"]: run["wall_s"] for run in runs if run["mode"] == "sync"}
    for name in MODES:
        own = [run for run in runs if run["mode"] == name]
        low, _, high = quantiles([s for run in own for s in run["step_s"]], n=4)
        scores = [run["accuracy"] for run in own if run["accuracy"] is not None]
        table[name] = {
            "step_s": spread([run["wall_s"] for run in own]),
            "single_steps_s": [round(low, 3), round(high, 3)],
            "speed_up": spread([sync[run["seed"]] / run["wall_s"] for run in own]),
            "accuracy": {"mean": round(fmean(scores), 4), "by_seed": scores} if scores else None,
            **{
                key: round(fmean(run[key] for run in own), 3)
                for key in (
                    "idle_learner", "idle_rollouts", "staleness_mean", "staleness_mixed_rows",
                    "gate_stale", "ess",
                )
            },
        }  # fmt: skip
    return table


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and range."""
    ends = [round(min(values), 3), round(max(values), 3)]
    return {"median": round(median(values), 3), "range": ends}


def claimed(
    table: Mapping[str, Mapping[str, Mapping[str, Any]]], runs: Sequence[Mapping[str, Any]]
) -> dict[str, bool]:
    """What the numbers are held to."""

    def faster(scene: str, mode: str) -> bool:
        """Than sync, in the median over seeds."""
        return table[scene][mode]["speed_up"]["median"] > 1

    bounds = dict(zip(MODES, (0, 1, 1, 2), strict=True))
    least = table["here"]["sync"]["accuracy"]["mean"] - 0.03
    return {
        "one_step_off is faster than sync with a learner elsewhere": faster(
            "elsewhere", "one_step_off"
        ),
        "async is faster than sync in both scenes": all(
            faster(scene, "async, 2 versions") for scene in table
        ),
        "no mode loses more than 0.03 of accuracy": all(
            row["accuracy"]["mean"] >= least for row in table["here"].values()
        ),
        "no token is older than its bound": all(
            run["staleness_max"] <= bounds[run["mode"]] for run in runs
        ),
        "fewer than one group in a hundred is too old": fmean(run["gate_stale"] for run in runs)
        <= 0.01 * 16,
    }


def main() -> int:
    """Run all and write the table; exit 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=512)
    parser.add_argument("--pause-s", type=float, default=0.5)
    options = parser.parse_args()
    register("learner", "elsewhere", learner_elsewhere)
    base = [f"env={__file__}:SlowMath", f"env.pause_s={options.pause_s}", "eval.every=0"]
    few = max(4, options.steps // 3)
    runs: list[dict[str, Any]] = []
    with TemporaryDirectory() as temporary:
        for seed in range(options.seeds):
            for scene, learner, steps, tasks in (
                ("here", "torch", options.steps, options.tasks),
                ("elsewhere", "elsewhere", few, 0),
            ):
                words = [
                    *base, f"learner={learner}", f"train.steps={steps}",
                    f"train.checkpoint_every={steps}",
                ]  # fmt: skip
                for name in MODES:
                    runs.append(one_run(scene, name, words, Path(temporary), tasks, seed))
    table = {s: summary([r for r in runs if r["scene"] == s]) for s in ("here", "elsewhere")}
    claims = claimed(table, runs)
    RESULTS.write_text(
        json.dumps(
            {
                "settings": vars(options), "scenes": table, "runs": runs, "claims": claims,
                "machine": about_this_machine(),
            },
            indent=1,
        )
        + "\n"
    )  # fmt: skip
    for scene, rows in table.items():
        for name, row in rows.items():
            print(f"{scene:10} {name:18} {row}")
    for claim, holds in claims.items():
        print(f"{'ok  ' if holds else 'FAIL'} {claim}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
