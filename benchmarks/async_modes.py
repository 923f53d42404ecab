"""What overlapping rollouts and updates buys with a slow tool, and what it costs in accuracy.

    python benchmarks/async_modes.py [--seeds 3] [--steps 60] [--tasks 512] [--pause-s 0.5]

The shipped model and learner on retool_math, where every interpreter call takes `pause-s` longer.
Modes take turns within a seed, so that a busy machine slows all of them. Reported per mode: wall
time of a step (median and quartiles over all steps but the first two), idle shares, ages of trained
tokens, dropped groups, and sampled accuracy on the test split after the last step. Writes
benchmarks/results/async_modes.json. About 25 minutes on two cores.
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

from machine import about_this_machine

from agentrl.compose import compose
from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepResult
from agentrl.train.run import evaluate, train
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
WARM = 2
"""First steps that are left out: threads start, nothing is in flight yet."""


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


def one_run(name: str, words: Sequence[str], work: Path, tasks: int, seed: int) -> dict:
    """Train once in one mode, and measure the model."""
    folder = work / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    started = monotonic()
    own = [*words, *MODES[name], f"seed={seed}", f"dir={folder}"]
    train(compose(own), sinks=(), command="benchmark")
    train_s = monotonic() - started
    found = evaluate(
        compose(
            ["env=retool_math", *NANO, f"model={folder}", f"eval.tasks={tasks}", f"seed={seed}",
             f"dir={folder}-after"]
        ),
        sinks=(), command="benchmark",
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    late = lines[WARM:]
    result = {
        "mode": name,
        "seed": seed,
        "train_s": round(train_s, 1),
        "step_s": [round(line["time_s"], 3) for line in late],
        "accuracy": [round(x, 4) for x in found.accuracy],
        "calls": round(found.calls, 3),
        **{
            key.replace("/", "_"): round(fmean(line.get(key) or 0.0 for line in late), 3)
            for key in (
                "idle/learner", "idle/rollouts", "staleness/mean", "staleness/mixed_rows",
                "gate/stale", "ess", "learner_s",
            )
        },
        "staleness_max": max(line.get("staleness/max", 0.0) for line in late),
    }  # fmt: skip
    print(
        f"seed {seed} {name}: {median(result['step_s']):.2f} s a step, accuracy {found.accuracy}",
        flush=True,
    )
    return result


def summary(runs: Sequence[Mapping], seeds: int) -> dict[str, dict]:
    """Per mode: step times over all seeds, speed-up over sync seed by seed, means of the rest."""
    table = {}
    for name in MODES:
        own = [run for run in runs if run["mode"] == name]
        steps = [s for run in own for s in run["step_s"]]
        low, middle, high = quantiles(steps, n=4)
        ratios = [
            median(_of(runs, "sync", seed)["step_s"]) / median(_of(runs, name, seed)["step_s"])
            for seed in range(seeds)
        ]
        table[name] = {
            "step_s": {"median": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]},
            "speed_up": {
                "median": round(median(ratios), 3),
                "range": [round(min(ratios), 3), round(max(ratios), 3)],
            },
            "accuracy": {
                "mean": round(fmean(run["accuracy"][0] for run in own), 4),
                "by_seed": [run["accuracy"][0] for run in own],
            },
            **{
                key: round(fmean(run[key] for run in own), 3)
                for key in ("idle_learner", "idle_rollouts", "staleness_mean", "gate_stale", "ess")
            },
        }
    return table


def _of(runs: Sequence[Mapping], mode: str, seed: int) -> Mapping:
    return next(run for run in runs if run["mode"] == mode and run["seed"] == seed)


def main() -> int:
    """Run all and write the table; exit 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=512)
    parser.add_argument("--pause-s", type=float, default=0.5)
    options = parser.parse_args()
    base = [
        f"env={__file__}:SlowMath", f"env.pause_s={options.pause_s}", f"train.steps={options.steps}",
        f"train.checkpoint_every={options.steps}", "eval.every=0",
    ]  # fmt: skip
    runs = []
    with TemporaryDirectory() as temporary:
        for seed in range(options.seeds):
            for name in MODES:
                runs.append(one_run(name, base, Path(temporary), options.tasks, seed))
    table = summary(runs, options.seeds)
    low = table["sync"]["accuracy"]["mean"] - 0.03
    claims = {
        "one_step_off is faster than sync": table["one_step_off"]["speed_up"]["median"] > 1,
        "async is faster than sync": table["async, 2 versions"]["speed_up"]["median"] > 1,
        "no mode loses more than 0.03 of accuracy": all(
            row["accuracy"]["mean"] >= low for row in table.values()
        ),
        "no token is older than its bound": all(
            run["staleness_max"] <= bound
            for run in runs
            for mode, bound in zip(MODES, (0, 1, 1, 2), strict=True)
            if run["mode"] == mode
        ),
    }
    RESULTS.write_text(
        json.dumps(
            {
                "settings": vars(options), "modes": table, "runs": runs, "claims": claims,
                "machine": about_this_machine(),
            },
            indent=1,
        )
        + "\n"
    )  # fmt: skip
    for name, row in table.items():
        print(f"{name:18} {row}")
    for claim, holds in claims.items():
        print(f"{'ok  ' if holds else 'FAIL'} {claim}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
