"""Every way a command can end: one line, the right code, no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agentrl.cli import exits
from agentrl.cli.exits import exit_code_of, farewell, sole_cause
from agentrl.cli.main import run
from agentrl.errors import EngineError, RunFailed, SandboxUnavailable, SetupError, UserError


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/metrics.jsonl")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("there is no env 'x'"), 2, "error: there is no env 'x'"),
        (click.UsageError("No such option: --x."), 2, "error: No such option: --x"),
        (SetupError("torch is missing"), 3, "error: torch is missing"),
        (SandboxUnavailable("use sandbox=docker"), 3, "error: use sandbox=docker"),
        (RunFailed("the loss is not finite"), 4, "error: the loss is not finite"),
        (EngineError("the engine died"), 4, "error: the engine died"),
        (full_disk(), 4, "error: the disk is full while writing runs/x/metrics.jsonl; free"),
        (UserError("two\n  lines"), 2, "error: two lines"),
        (ExceptionGroup("g", [ExceptionGroup("h", [SetupError("deep")])]), 3, "error: deep"),
        (ExceptionGroup("g", [UserError("u"), RunFailed("r")]), 4, "error: r"),
    ],
)
def test_one_line_and_a_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
):
    assert exit_code_of(error, debug=False) == code
    told = capsys.readouterr().err
    assert told.startswith(line)
    assert told.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("k"), OSError(errno.EIO, "io"), ValueError("v")])
def test_what_nobody_explained_is_a_bug(error: Exception):
    assert exit_code_of(error, debug=False) is None


def test_a_bug_among_explained_errors_is_the_cause():
    bug = KeyError("k")
    assert sole_cause(ExceptionGroup("g", [UserError("u"), bug])) is bug


def test_debug_shows_the_traceback_too(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError) as caught:
        raise UserError("bad")
    assert exit_code_of(caught.value, debug=True) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.endswith("error: bad\n")


def test_ctrl_c_prints_the_command_that_goes_on(capsys: pytest.CaptureFixture[str]):
    assert farewell(KeyboardInterrupt("runs/my run")) == 130
    told = capsys.readouterr().err
    assert "agentrl train '@runs/my run/config.yaml' 'resume=runs/my run'" in told
    assert farewell(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["trian"], 2, "there is no command 'trian'; did you mean 'train'"),
        (["config", "env=retol_math"], 2, "did you mean 'retool_math'"),
        (["config", "train.step=1"], 2, "unknown key 'train.step'; did you mean 'steps'"),
        (["config", "--jsn"], 2, "--jsn"),
        (["list", "widgets"], 2, "there is no kind 'widgets' of plug-in"),
        (["check", "gadget", "x"], 2, "'gadget' is not one of"),
        (["check", "tool", "no_such"], 2, "there is no tool named 'no_such'"),
        (["new", "tool", "No-Name"], 2, "must be a lower-case Python name, such as my_tool"),
    ],
)
def test_mistakes_on_the_command_line(
    argv: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
):
    assert run(argv) == code
    out = capsys.readouterr()
    assert out.out == ""
    assert told in out.err
    assert out.err.count("\n") == 1


def command(code: str, *argv: str, **more: object) -> subprocess.CompletedProcess[str]:
    """A fresh `agentrl` process whose `config` command runs `code` instead."""
    script = (
        "import sys, agentrl.cli.config as c\n"
        f"def fails(*a, **k):\n    {code}\n"
        "c.command.callback = fails\n"
        f"sys.argv[1:] = {list(argv)!r}\n"
        "from agentrl.cli.main import main\nmain()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, **more
    )  # type: ignore[call-overload]


def test_a_bug_is_two_lines_and_exit_code_one():
    done = command("raise KeyError('lost')", "config")
    assert done.returncode == 1
    assert done.stderr == (
        "error: KeyError: 'lost'\n"
        "This is a bug; run the command again with --debug and report what it prints.\n"
    )


@pytest.mark.parametrize("argv", [("--debug", "config"), ("config", "--debug")])
def test_a_bug_under_debug_is_a_traceback(argv: tuple[str, ...]):
    done = command("raise KeyError('lost')", *argv)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "This is a bug" not in done.stderr


def test_an_interrupted_process_ends_with_130():
    done = command("raise KeyboardInterrupt('runs/a')", "config")
    assert done.returncode == 130
    assert "agentrl train @runs/a/config.yaml resume=runs/a" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_silent(tmp_path: Path):
    script = f"{sys.executable} -m agentrl.cli config env=retool_math"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_windows_is_sent_to_wsl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "platform", "win32")
    assert run(["train"]) == 3
    assert "wsl --install" in capsys.readouterr().err


def test_the_bug_hook_is_taken_back_under_debug():
    exits.install_bug_hook(debug=False)
    assert sys.excepthook is not sys.__excepthook__
    exits.install_bug_hook(debug=True)
    assert sys.excepthook is sys.__excepthook__
