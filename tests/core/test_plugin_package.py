"""A stranger's installed package is found, listed and checked like our own."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from agentrl.config import Plugin
from agentrl.plugins import build
from agentrl.registry import listing, names, resolve
from agentrl.testing import check_env, check_tool, failures
from agentrl.tool import Tool
from agentrl.trajectory import StopReason, Trajectory
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
    ("kind", "name"), [("tool", "dictionary"), ("env", "spelling"), ("reward", "brevity")]
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


@pytest.mark.parametrize(("file", "lines"), [("dictionary.py", 15), ("spelling.py", 80)])
def test_a_plugin_stays_within_its_budget(file: str, lines: int):
    assert len((PACKAGE / file).read_text().splitlines()) <= lines
