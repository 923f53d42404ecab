"""Law 9: a run killed at any moment and resumed computes what an undisturbed one does.

The run has 6 steps and a checkpoint after the third. It is killed in the middle of its fourth step:
the second run trains the fourth to the sixth step again and must find the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import RunConfig, validated
from agentrl.errors import UserError
from agentrl.sandbox import LEVELS
from agentrl.train import checkpoint
from agentrl.train.metrics import TIME_METRICS
from agentrl.train.run import train
from agentrl_sandbox.probe import probe

ROOT = Path(__file__).parents[2]
BOX = {"box": True, "max_tokens": 96}
BOXED = LEVELS.index(probe().level) >= LEVELS.index("lite")
KILLED = """
import json, os, signal, sys
from pathlib import Path
from agentrl.config import validated
from agentrl.train import assemble, torch_learner
from agentrl.train.run import train

real_append, real_update = assemble.append_line, torch_learner.TorchLearner.update

def play(tree, where):
    updates, lines = [], []

    def update(self, *args, **options):
        found = real_update(self, *args, **options)
        updates.append(found)
        if where == "update" and len(updates) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    def append(path, line):
        lines.extend([line] * line.startswith('{"schema_version":1,"uid":"3/'))
        if where == "line" and len(lines) == 5:
            with path.open("ab") as file:
                file.write(line.encode()[:200])
            os.kill(os.getpid(), signal.SIGKILL)
        real_append(path, line)

    torch_learner.TorchLearner.update = update
    assemble.append_line = append
    train(validated(tree), sinks=[], command="agentrl train")

for tree, where in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        play(tree, where)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Plays runs, each in a process of its own, that end by SIGKILL; imports once for all of them."""


@pytest.fixture(scope="module")
def killed(
    dice_tree: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Trees of runs that were killed: after an update, inside a line, with a sandbox."""
    root = tmp_path_factory.mktemp("killed")
    trees = {name: dice_tree(dir=str(root / name)) for name in ("update", "line")}
    if BOXED:
        trees["boxed"] = dice_tree(env=BOX, dir=str(root / "boxed"))
    jobs = [(tree, "line" if name == "line" else "update") for name, tree in trees.items()]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(jobs)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=110,
    )  # fmt: skip
    assert done.stdout.split() == ["-9"] * len(jobs), done.stderr[-2000:]
    return trees


def resumed(tree: dict[str, Any]) -> Path:
    """The run that `tree` names, gone on with."""
    return train(validated({**tree, "resume": tree["dir"]}), sinks=[], command="agentrl train")


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIME_METRICS} for line in lines]


def trajectories(folder: Path) -> list[dict[str, Any]]:
    """Every stored trajectory without its times."""
    found = []
    for line in (folder / "trajectories.jsonl").read_bytes().split(b"\n")[:-1]:
        record = json.loads(line)
        record.pop("timings")
        for call in record["calls"]:
            call.pop("wall_s")
            call.pop("queue_s")
        found.append(record)
    return found


def weights(folder: Path) -> str:
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    return hashlib.sha256((found / "model" / "model.safetensors").read_bytes()).hexdigest()


def check_same(whole: Path, halves: Path) -> None:
    assert metrics(halves) == metrics(whole)
    assert [m["step"] for m in metrics(whole)] == list(range(6))
    assert trajectories(halves) == trajectories(whole)
    uids = [t["uid"] for t in trajectories(whole)]
    assert len(uids) == len(set(uids)) == 6 * 3 * 4
    assert weights(halves) == weights(whole)


@pytest.fixture(scope="module")
def whole(dice: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps in one go."""
    return train(
        dice(dir=str(tmp_path_factory.mktemp("whole") / "run")), sinks=[], command="agentrl train"
    )


def test_the_toy_run_learns_something(whole: Path, tiny: Path):
    """Without gradients, equality would prove nothing."""
    lines = metrics(whole)
    assert all(line["optimizer_steps"] == 1 and line["grad_norm"] > 0 for line in lines)
    assert len({line["reward"] for line in lines}) > 1
    assert 0 < lines[0]["reward"] < 1
    before = hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()
    assert weights(whole) != before
    assert max(line["gap_max"] for line in lines) < 1e-4


@pytest.mark.parametrize("where", ["update", "line"])
def test_kill_and_resume(whole: Path, killed: dict[str, dict[str, Any]], where: str):
    """Killed after the fourth update, or in the middle of writing the fourth step's fifth line."""
    folder = Path(killed[where]["dir"])
    assert [m["step"] for m in metrics(folder)] == [0, 1, 2]
    if where == "line":
        assert not (folder / "trajectories.jsonl").read_bytes().endswith(b"\n")
    resumed(killed[where])
    check_same(whole, folder)


def test_the_same_seed_repeats_in_another_process_state(
    whole: Path, dice: Callable[..., RunConfig], tmp_path: Path
):
    """Slower tools and fewer episodes in flight change the order of arrival and nothing else."""
    again = train(
        dice(
            dir=str(tmp_path / "run"),
            env={"pause_s": 0.003},
            rollout={"in_flight": 5},
        ),
        sinks=[],
        command="agentrl train",
    )
    check_same(whole, again)


@pytest.mark.skipif(not BOXED, reason="no sandbox here")
def test_with_the_real_sandbox(
    dice: Callable[..., RunConfig], killed: dict[str, dict[str, Any]], tmp_path: Path
):
    """Observations come from Python."""
    whole = train(dice(env=BOX, dir=str(tmp_path / "whole")), sinks=[], command="agentrl train")
    calls = [call for t in trajectories(whole) for call in t["calls"]]
    assert calls
    assert all(call["error"] is None and int(call["content"]) % 7 == 0 for call in calls)
    check_same(whole, resumed(killed["boxed"]))


def test_a_finished_run_resumes_to_nothing(whole: Path, dice_tree: Callable[..., dict[str, Any]]):
    before = (metrics(whole), trajectories(whole), weights(whole))
    resumed(dice_tree(dir=str(whole)))
    assert (metrics(whole), trajectories(whole), weights(whole)) == before


def test_another_configuration_is_refused(whole: Path, dice_tree: Callable[..., dict[str, Any]]):
    with pytest.raises(UserError, match="was run with another configuration; resume it unchanged"):
        resumed(dice_tree(dir=str(whole), learner={"lr": 0.5}))


def test_a_checkpoint_of_another_schema_is_refused(
    dice_tree: Callable[..., dict[str, Any]], tmp_path: Path
):
    tree = dice_tree(dir=str(tmp_path / "run"), train={"steps": 1, "checkpoint_every": 1})
    folder = train(validated(tree), sinks=[], command="x")
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    stored = json.loads((found / "trainer.json").read_text())
    (found / "trainer.json").write_text(json.dumps({**stored, "schema_version": 99}))
    with pytest.raises(UserError, match="has checkpoint schema 99 and this version reads 1"):
        resumed(tree)
