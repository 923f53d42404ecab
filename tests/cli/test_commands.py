"""What the small commands print."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from rich.text import Text

from agentrl.cli.dry import episode, size
from agentrl.cli.eval import rows
from agentrl.cli.main import COMMANDS, cli, run
from agentrl.compose import compose
from agentrl.config import RunConfig
from agentrl.evaluate.report import EvalReport
from agentrl.evaluate.statistics import Interval
from agentrl.transcript import Origin


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(argv) == 0
    return capsys.readouterr().out


def test_help_shows_every_command(capsys: pytest.CaptureFixture[str]):
    text = printed(capsys, "--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", text, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_itself(name: str, capsys: pytest.CaptureFixture[str]):
    assert f"agentrl {name} " in printed(capsys, name, "--help")


def test_every_listed_command_exists():
    with click.Context(cli) as context:
        found = {name: cli.get_command(context, name) for name in COMMANDS}
    assert {name: command.name for name, command in found.items() if command} == {
        name: name for name in COMMANDS
    }


def test_config_prints_what_it_resolved_and_reads_it_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    words = ["env=retool_math", "env.max_turns=6", "train.steps=3"]
    text = printed(capsys, "config", *words)
    (tmp_path / "run.yaml").write_text(text)
    assert compose([f"@{tmp_path}/run.yaml"]) == compose(words)
    tree = json.loads(printed(capsys, "config", *words, "--json"))
    assert (tree["env"]["max_turns"], tree["train"]["steps"]) == (6, 3)


def test_list_shows_origin_and_summary(capsys: pytest.CaptureFixture[str]):
    table = printed(capsys, "list", "env")
    row = next(line for line in table.splitlines() if "retool_math" in line)
    assert row.split()[:3] == ["env", "retool_math", "agentrl-framework"]
    assert "Maths questions" in row
    lines = printed(capsys, "list", "tools", "--json").splitlines()
    tool = next(t for t in map(json.loads, lines) if t["name"] == "python")
    assert tool["kind"] == "tool"
    assert tool["where"] == "agentrl_tools.python:PythonTool"
    assert tool["error"] is None


def test_check_prints_each_promise(capsys: pytest.CaptureFixture[str]):
    text = printed(capsys, "check", "tool", "python", "--no-sandbox")
    assert "ok    schema is plain JSON" in text
    assert text.endswith("12 of 12 checks hold\n")


def test_check_of_a_bad_tool_ends_with_4(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from agentrl.tool import tool\n"
        "@tool\nasync def bad(x: int) -> str:\n    'Bad.'\n    return 'x'\n"
    )
    assert run(["check", "tool", f"{plugin}:bad", "--no-sandbox", "--json"]) == 4
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {r["name"] for r in results if not r["ok"]} == {
        "description addresses the model",
        "every argument is described",
    }


@pytest.mark.parametrize("kind", ["tool", "env", "reward", "plan"])
def test_a_scaffold_passes_its_own_test(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    name = f"my_{kind}"
    text = printed(capsys, "new", kind, name)
    assert f"pip install -e {name} && pytest {name}" in text
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", name],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert run(["new", kind, name]) == 2
    assert f"{name} exists already" in capsys.readouterr().err


def test_an_episode_marks_what_is_trained():
    spans = [(Origin.PROMPT, "2+3?"), (Origin.MODEL, "<code>"), (Origin.OBSERVATION, "5")]
    assert episode(spans, colour=False).plain == "2+3?[[<code>]]5"
    coloured = episode(spans, colour=True)
    assert coloured.plain == "2+3?<code>5"
    styles = {coloured.plain[s.start : s.end]: str(s.style) for s in coloured.spans}
    assert styles == {"2+3?": "dim", "<code>": "black on green", "5": "yellow"}
    assert isinstance(coloured, Text)


def test_sizes():
    assert (size(12.4), size(1536)) == ("12 MB", "1.5 GB")


def test_an_evaluation_reads_well():
    report = EvalReport(
        tasks=4,
        trajectories=16,
        accuracy=Interval(0.75, 0.5, 0.9),
        pass_at={1: 0.75, 4: 1.0},
        calls=1.5,
        productivity=None,
        call_errors=0.125,
        truncated=0.0,
        excluded=0.0,
        errors=0.0625,
        length=31.0,
        families={"powmod": Interval(1.0, 0.8, 1.0)},
    )
    told = dict(rows(report))
    assert told["accuracy"] == "0.750  (95 %: 0.500 to 0.900)"
    assert told["pass@4"] == "1.000"
    assert "pass@1" not in told
    assert told["productivity"] == "-"
    assert told["errors"] == "6.2% of 16 trajectories, 4 tasks"
    assert told["powmod"].startswith("1.000")


class Watched:
    """Stands for the training entry point; remembers what the command handed over."""

    def __init__(self, end: BaseException | None = None) -> None:
        self.end = end

    def __call__(self, config: RunConfig, *, sinks: list, command: str) -> Path:
        self.config, self.command = config, command
        for sink in sinks:
            sink.start(3, {"folder": "runs/x"})
            sink.close()
        if self.end is not None:
            raise self.end
        return Path("runs/x")


def test_train_hands_over_config_command_and_sinks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import agentrl.train.run

    watched = Watched()
    monkeypatch.setattr(agentrl.train.run, "train", watched)
    words = ["env=retool_math", "train.steps=3", "env.max_turns=2"]
    text = printed(capsys, "train", *words)
    assert watched.command == shlex.join(["agentrl", "train", *words])
    assert watched.config == compose(words)
    assert "run folder: runs/x" in text
    assert "agentrl eval env=retool_math env.max_turns=2 model=runs/x" in text


def test_an_interrupted_train_prints_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    import agentrl.train.run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agentrl.train.run, "train", Watched(KeyboardInterrupt()))
    assert run(["train", "--json"]) == 130
    assert "resume=" not in capsys.readouterr().err, "there is no checkpoint yet"
    (tmp_path / "runs/x/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/x/checkpoints/latest").write_text("step_2")
    assert run(["train", "--json"]) == 130
    assert "agentrl train @runs/x/config.yaml resume=runs/x" in capsys.readouterr().err
