"""The shipped model of search_qa: small, nano's words, partly skilled; what the commands choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.cli.main import run
from agentrl.compose import compose
from agentrl.model_path import ASSETS, shipped_models

FOLDER = ASSETS / "nano_search"


def test_it_is_small_and_speaks_as_nano_does() -> None:
    assert "nano_search" in shipped_models()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 800_000
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (FOLDER / name).read_text() == (ASSETS / "nano" / name).read_text()


@pytest.mark.parametrize("env", ["search_qa", "reseek"])
def test_the_environment_brings_it_and_another_model_speaks_plainly(env: str) -> None:
    own = compose([f"env={env}"])
    assert (own.model.path, own.env.given["style"]) == ("nano_search", "terse")
    other = compose([f"env={env}", "model=some/model"])
    assert other.model.path == "some/model"
    assert "style" not in other.env.given
    assert other.env.max_turns >= 8


def test_it_starts_partly_skilled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Between 0.2 and 0.6 on a few tasks, give or take their interval; next to nothing is malformed."""
    words = f"eval env=search_qa eval.tasks=48 dir={tmp_path / 'run'} --json"
    assert run(words.split()) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["accuracy_low"] < 0.6
    assert report["accuracy_high"] > 0.2
    assert report["call_errors"] < 0.1
    assert report["errors"] == 0
