"""Killed at any moment and resumed, an overlapped run loses no task and doubles none.

The run has 6 steps of 3 groups of 4 and a checkpoint after the third. It is killed in the middle of
its fourth step. What is sampled under which weights depends on time, so the numbers differ from an
undisturbed run's; which tasks are trained on, how often and under which names does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import validated
from agentrl.train import checkpoint
from agentrl.train.run import train

ROOT = Path(__file__).parents[2]
MODES = ("one_step_off", "async")
KILLED = """
import json, os, signal, sys, threading, time
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
        lines.extend([line] * line.startswith('{"schema_version":1,"uid"'))
        if where == "line" and len(lines) == 3 * 12 + 5:
            with path.open("ab") as file:
                file.write(line.encode()[:200])
            os.kill(os.getpid(), signal.SIGKILL)
        real_append(path, line)

    def interrupt():
        metrics = Path(tree["dir"]) / "metrics.jsonl"
        while not metrics.exists() or metrics.read_bytes().count(b"\\n") < 3:
            time.sleep(0.007)
        os.kill(os.getpid(), signal.SIGINT)

    torch_learner.TorchLearner.update = update
    assemble.append_line = append
    if where == "interrupt":
        threading.Thread(target=interrupt, daemon=True).start()
    train(validated(tree), sinks=[], command="agentrl train")

for tree, where in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            play(tree, where)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Plays runs, each in a process of its own, that end by SIGKILL or SIGINT; imports once for all."""
ENDLESS = {"steps": 10_000, "checkpoint_every": 10_000}


@pytest.fixture(scope="module")
def killed(
    dice_tree: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], dict[str, Any]]:
    """Trees of runs that were killed after an update or inside a line, or interrupted anywhere."""
    root = tmp_path_factory.mktemp("killed")
    trees = {
        (mode, where): dice_tree(
            dir=str(root / f"{mode}-{where}"),
            train={"mode": mode, **(ENDLESS if where == "interrupt" else {})},
            env={"pause_s": 0.01},
        )
        for mode in MODES
        for where in ("update", "line", "interrupt")
    }
    jobs = [(tree, where) for (_, where), tree in trees.items()]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(jobs)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=110,
    )  # fmt: skip
    assert done.stdout.split() == ["-9", "-9", "130"] * 2, done.stderr[-2000:]
    return trees


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def stored(folder: Path) -> dict[str, Any]:
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    return json.loads((found / "trainer.json").read_text())["state"]


def check_whole(folder: Path) -> None:
    """Six steps of three groups of four, of the stream's first eighteen tasks, each once."""
    assert [m["step"] for m in lines(folder, "metrics.jsonl")] == list(range(6))
    uids = [t["uid"] for t in lines(folder, "trajectories.jsonl")]
    assert len(uids) == len(set(uids)) == 6 * 3 * 4
    tasks = Counter(t["task"]["id"] for t in lines(folder, "trajectories.jsonl"))
    assert tasks == {f"train/{i}": 4 for i in range(1, 19)}
    state = stored(folder)
    assert (state["left"], state["written"]) == ([], 72)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["update", "line"])
def test_kill_and_resume(killed: dict[tuple[str, str], dict[str, Any]], mode: str, where: str):
    tree = killed[mode, where]
    folder = Path(tree["dir"])
    assert [m["step"] for m in lines(folder, "metrics.jsonl")] == [0, 1, 2]
    before = stored(folder)
    assert before["written"] == 36
    assert before["left"]
    train(validated({**tree, "resume": tree["dir"]}), sinks=[], command="agentrl train")
    check_whole(folder)
    after = lines(folder, "metrics.jsonl")
    written = {t["uid"]: t for t in lines(folder, "trajectories.jsonl")}
    for played in before["played"]:  # to its end before the boundary: not played again
        for record in map(json.loads, played["group"]["lines"]):
            assert written[record["uid"]]["timings"] == record["timings"]
            assert written[record["uid"]]["rows"] == record["rows"]
    assert all(m["staleness/max"] <= (1 if mode == "one_step_off" else 2) for m in after)


@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_saves_the_boundary(killed: dict[tuple[str, str], dict[str, Any]], mode: str):
    """A real SIGINT at an arbitrary moment: the checkpoint is that of the last line of metrics, and
    holds every task that was drawn and not trained on."""
    folder = Path(killed[mode, "interrupt"]["dir"])
    state, n_steps = stored(folder), len(lines(folder, "metrics.jsonl"))
    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    assert found.name == f"step-{n_steps:06d}"
    written = lines(folder, "trajectories.jsonl")
    assert len(written) == state["written"] == n_steps * 12
    tasks = {t["task"]["id"] for t in written} | {t["task"]["id"] for t in state["left"]}
    assert tasks == {f"train/{i}" for i in range(1, len(tasks) + 1)}
    assert state["source"]["position"] == len(tasks) == n_steps * 3 + len(state["left"])
    played = {p["group"]["lines"][0] for p in state["played"]}
    assert not {json.loads(line)["uid"] for line in played} & {t["uid"] for t in written}
