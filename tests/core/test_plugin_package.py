"""A stranger's installed package is found, listed and checked like our own."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from agentrl.algo.batch import make_batch
from agentrl.compose import compose
from agentrl.config import Plugin
from agentrl.plugins import build
from agentrl.points import Ctx
from agentrl.registry import listing, names, resolve
from agentrl.testing import check_env, check_tool, failures
from agentrl.tool import Tool
from agentrl.train.run import train
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

PACKAGE = Path(__file__).parents[1] / "plugin_package" / "src" / "agentrl_stranger"


def _installed() -> bool:
    try:
        distribution("agentrl-stranger")
    except PackageNotFoundError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not _installed(), reason="pip install --no-deps -e tests/plugin_package"
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tool", "dictionary"), ("env", "spelling"), ("reward", "brevity"), ("advantage", "median")],
)
def test_it_is_found_and_listed(kind: str, name: str):
    assert name in names(kind)
    row = next(row for row in listing(kind) if row.name == name)
    assert (row.distribution, row.error) == ("agentrl-stranger", None)
    assert row.summary


def test_its_broken_plugin_is_listed_with_the_error():
    row = next(row for row in listing("shaper") if row.name == "broken_on_purpose")
    assert row.error is not None
    assert "no_such_module" in row.error


async def test_its_tool_and_env_keep_their_contracts():
    made = resolve("tool", "dictionary")
    assert isinstance(made, Tool)
    assert failures(await check_tool(made, arguments={"word": "cat"})) == []
    assert failures(await check_env(resolve("env", "spelling"))) == []


async def test_its_reward_takes_options():
    score = build("reward", Plugin(name="brevity", per_token=0.5))
    row = Transcript().append(Segment(Origin.MODEL, [1, 2, 3], [-1, -1, -1], version=0))
    made = Trajectory("0/t/0", Task("t", "?"), 0, (row,), (), StopReason.TERMINATED)
    assert await score(made, None) == {"brevity": -1.5}


def test_its_method_is_one_file_and_trains(tmp_path: Path):
    """Rewards 1, 0, 0, 0 of a group: median 0, mean distance 1/4, so 4, 0, 0, 0; then two real steps."""
    task = Task("t", "?")

    def member(sibling: int) -> Trajectory:
        row = Transcript().append(
            Segment(Origin.PROMPT, [1]), Segment(Origin.MODEL, [2], [-1.0], version=0)
        )
        reward = float(sibling == 0)
        stop = StopReason.TERMINATED
        return Trajectory(f"0/t/{sibling}", task, sibling, (row,), (), stop, reward=reward)

    batch = make_batch([Group(task, tuple(map(member, range(4))))], pad_id=0)
    median = build("advantage", Plugin(name="median"))
    advantages = median(batch, Ctx(step=0, total_steps=1, seed=0))
    assert advantages[:, 1].tolist() == pytest.approx([4, 0, 0, 0], abs=1e-4)
    small = ["train.steps=2", "train.tasks_per_step=2", "rollout.group_size=4", "env.tools=none"]
    words = ["env=retool_math", "algo.advantage.name=median", "eval.every=0", *small]
    folder = train(compose([*words, f"dir={tmp_path / 'run'}"]), sinks=(), command="test")
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["optimizer_steps"] for line in lines] == [1, 1]


@pytest.mark.parametrize(
    ("file", "lines"), [("dictionary.py", 15), ("spelling.py", 80), ("median.py", 30)]
)
def test_a_plugin_stays_within_its_budget(file: str, lines: int):
    assert len((PACKAGE / file).read_text().splitlines()) <= lines
