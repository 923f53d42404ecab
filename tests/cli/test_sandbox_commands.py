"""`agentrl sandbox`: what a person gets for a piece of code, and every exit code."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time

import click
import pytest

from agentrl.cli.main import cli, run
from agentrl.cli.sandbox import SUBCOMMANDS, command
from agentrl.cli.sandbox_pool import facts
from agentrl.cli.sandbox_shell import is_whole
from agentrl.registry import Listed
from agentrl.sandbox import ExecResult

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")
BACKEND = "sandbox=local"


def test_every_subcommand_exists_and_helps_itself(capsys: pytest.CaptureFixture[str]):
    with click.Context(command) as context:
        found = {name: command.get_command(context, name) for name in SUBCOMMANDS}
    assert {name: found_command.name for name, found_command in found.items() if found_command} == {
        name: name for name in SUBCOMMANDS
    }
    for name in SUBCOMMANDS:
        assert run(["sandbox", name, "--help"]) == 0
        assert f"agentrl sandbox {name} " in capsys.readouterr().out
    assert isinstance(cli.get_command(click.Context(cli), "sandbox"), click.Group)


def test_a_slip_gets_the_nearest_command(capsys: pytest.CaptureFixture[str]):
    assert run(["sandbox", "exce"]) == 2
    assert "did you mean 'exec'" in capsys.readouterr().err


def test_exec_prints_output_value_and_facts(capsys: pytest.CaptureFixture[str]):
    code = "import sys; print('out'); print('err', file=sys.stderr)\n6 * 7"
    assert run(["sandbox", "exec", "-c", code, BACKEND]) == 0
    told = capsys.readouterr()
    assert told.out == "out\n42\n"
    assert told.err.startswith("err\nok · ")
    assert " · isolation " in told.err


def test_exec_of_code_that_fails_ends_with_4(capsys: pytest.CaptureFixture[str]):
    assert run(["sandbox", "exec", "-c", "1 / 0", BACKEND, "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["error"]) == ("error", "ZeroDivisionError: division by zero")
    assert run(["sandbox", "exec", "-c", "import os; os._exit(0)", BACKEND]) == 4
    assert "exited · exit code 0" in capsys.readouterr().err
    assert run(["sandbox", "exec", "-t", "0.2", "-c", "while True: pass", BACKEND]) == 4
    assert "timeout" in capsys.readouterr().err


def test_exec_reads_a_file_or_standard_input(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "code.py"
    path.write_text("print('from a file')")
    assert run(["sandbox", "exec", "-f", str(path), BACKEND]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("print('piped')"))
    assert run(["sandbox", "exec", BACKEND]) == 0
    assert capsys.readouterr().out == "from a file\npiped\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["-c", "1", "-f", "x"], 2, "not both"),
        (["-f", "/nowhere/x.py"], 2, "cannot be read"),
        (["-c", "1", "-t", "0"], 2, "must be positive"),
        (["-c", "1", "nonsense"], 2, "key=value"),
        (["-c", "1", "sandbox=locla"], 2, "did you mean 'local'"),
        (["-c", "1", "sandbox.memory=1"], 2, "memory"),
        (["-c", "1", "sandbox.max_isolation=lite", "sandbox.min_isolation=strong"], 3, "strong"),
        (["-c", "1", "sandbox=remote", "sandbox.url=http://127.0.0.1:9", "sandbox.retries=0"], 3,
         "127.0.0.1:9"),
    ],
)  # fmt: skip
def test_exec_that_cannot_begin(
    argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    assert run(["sandbox", "exec", *argv]) == code
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


def test_facts_are_one_line():
    result = ExecResult(
        "signal", signal=9, wall_s=0.0125, cpu_s=0.001, peak_rss_mb=64.4, isolation="lite",
        state_lost=True,
    )  # fmt: skip
    line = "signal · signal 9 · 12.5 ms · CPU 1.0 ms · 64 MB · isolation lite · state lost"
    assert facts(result) == line


def test_an_empty_line_ends_a_block():
    assert [is_whole(text) for text in ("x = 1", "for i in x:", "f(", "'''a")] == [
        True, False, False, False,
    ]  # fmt: skip
    assert not is_whole("for i in x:\n    print(i)")
    assert is_whole("for i in x:\n    print(i)\n")
    assert is_whole("def f(): return 1\nf()")
    assert is_whole("1 +* 2")


def shell(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agentrl.cli", "sandbox", "shell", BACKEND, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_piped_session_keeps_state_forks_and_resets():
    cells = (
        "x = 40\ndef f(n):\n    return n + x\n\nf(2)\n1 / 0\n:fork\nx = 0\nf(2)\n:use 1\nf(2)\n"
        ":info\n:reset\n'x' in globals()\n:quit\nnever\n"
    )
    told, errors = shell().communicate(cells, timeout=60)
    lines = told.splitlines()
    assert lines[:3] == ["42", "2", "42"]
    assert lines[3].startswith("session 1 of 2, isolation ")
    assert lines[4:] == ["False"]
    assert "ZeroDivisionError: division by zero" in errors
    assert "now in session 2" in errors
    assert "never" not in errors


def test_ctrl_c_interrupts_the_cell_and_the_session_lives():
    with shell() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("x = 7\nprint('go', flush=True)\nwhile True: pass\n\n")
        process.stdin.flush()
        assert process.stdout.readline() == "go\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate("x\n", timeout=60)
    assert told == "7\n"
    assert "KeyboardInterrupt" in errors
    assert process.returncode == 0


def test_doctor_tries_each_back_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rows = [
        Listed("broken", "x:Y", "their-plugin", "", "ImportError: no x"),
        Listed("local", "a:B", "ours", "", None),
        Listed("none", "a:C", "ours", "", None),
        Listed("remote", "a:D", "ours", "", None),
    ]
    monkeypatch.setattr("agentrl.registry.listing", lambda kind: tuple(rows))
    assert run(["sandbox", "doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no    broken: cannot be loaded: ImportError: no x"
    assert lines[1] == "      fix: pip install --upgrade --force-reinstall their-plugin"
    assert lines[2].startswith("ok    local: isolation ")
    assert any("warn  none: code runs without any isolation" in line for line in lines)
    assert any("warn  remote: not tried: sandbox 'remote' needs sandbox.url" in s for s in lines)


def test_doctor_of_one_that_does_not_work_ends_with_3(capsys: pytest.CaptureFixture[str]):
    words = ["sandbox=remote", "sandbox.url=http://127.0.0.1:9", "sandbox.retries=0", "--json"]
    assert run(["sandbox", "doctor", *words]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["backend"], found["status"]) == ("remote", "no")
    assert "127.0.0.1:9" in found["detail"]
    assert "agentrl sandbox serve" in found["fix"]
