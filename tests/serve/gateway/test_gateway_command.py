"""`agentrl serve` as a process: two modes, a run's own environment, signals, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from agentrl.cli.main import cli
from agentrl.compose import compose
from agentrl.errors import UserError
from agentrl.serve.gateway.run import Settings, serve
from agentrl.trajectory_json import from_line

QUESTION = {"role": "user", "content": "k=151*62;k%95?"}


@contextmanager
def command(*words: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address; killed if the test did not end it."""
    line = [sys.executable, "-m", "agentrl.cli", "serve", *words, "--port", "0"]
    process = subprocess.Popen(
        line,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[2].removesuffix("/v1")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_an_agent_until_ctrl_c(tmp_path: Path):
    with command("env=retool_math", folder=tmp_path) as (process, url):
        body = {"messages": [QUESTION], "seed": 4}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"].startswith("<answer>")
        assert choice["agentrl"]["turns"][0]["calls"][0]["name"] == "python"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == []


def test_sessions_are_kept_when_the_server_is_told_to_end(tmp_path: Path):
    """One rewarded, one open at SIGTERM: both are in the run folder, the second untrainable."""
    words = ("env=retool_math", "dir=kept", "--mode", "record")
    with command(*words, folder=tmp_path) as (process, url):
        for who in ("one", "two"):
            path = f"{url}/v1/sessions/{who}"
            httpx.post(f"{path}/chat/completions", json={"messages": [QUESTION]}, timeout=60)
            if who == "one":
                httpx.post(f"{path}/reward", json={"reward": 1.0}).raise_for_status()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    lines = (tmp_path / "kept" / "trajectories.jsonl").read_text().split("\n")[:-1]
    one, two = map(from_line, lines)
    assert (one.rewards, one.excluded, one.trainable) == ({"env": 1.0}, None, True)
    assert (two.rewards, two.excluded, two.trainable) == ({}, "unrewarded", False)
    told = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert told["command"] == "agentrl serve --mode record env=retool_math dir=kept"


def test_beyond_this_machine_only_with_a_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AGENTRL_GATEWAY_TOKEN", raising=False)
    config = compose(["env=retool_math"])
    with pytest.raises(UserError, match="AGENTRL_GATEWAY_TOKEN"):
        serve(config, Settings(host="0.0.0.0"), command="x")
    with pytest.raises(UserError, match="max-body-mb"):
        serve(config, Settings(max_body_mb=0), command="x")
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1:99999"):
        serve(config, Settings(port=99999), command="x")


def test_bare_words_are_the_gateway_s():
    for words in (["env=retool_math", "--help"], ["--mode", "record", "--help"]):
        shown = CliRunner().invoke(cli, ["serve", *words])
        assert shown.exit_code == 0
        assert "--mode [agent|record]" in shown.output
    assert "retriever" in CliRunner().invoke(cli, ["serve", "--help"]).output
