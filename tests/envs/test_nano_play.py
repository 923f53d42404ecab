"""The shipped model of delethink and of the frozen lake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.cli.main import run
from agentrl.compose import compose
from agentrl.model_path import ASSETS, shipped_models

FOLDER = ASSETS / "nano_play"
GAMES = {
    "delethink": ["env=delethink"],
    "lake": ["env=gym", "env.id=FrozenLake-v1", "env.arguments.is_slippery=false"],
    "frozen_lake": ["env=frozen_lake"],
}


def test_it_is_small_and_says_how_it_was_made() -> None:
    assert "nano_play" in shipped_models()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 760_000
    assert "agentrl sft recipe=nano_play" in (FOLDER / "README.md").read_text()
    log = [json.loads(line) for line in (FOLDER / "sft_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == compose(["recipe=nano_play"]).sft.steps - 1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (FOLDER / name).read_text() == (ASSETS / "nano" / name).read_text()


@pytest.mark.parametrize("game", GAMES)
def test_the_games_bring_it_and_another_model_is_spoken_to_plainly(game: str) -> None:
    own, other = compose(GAMES[game]), compose([*GAMES[game], "model=some/model"])
    assert (own.model.path, own.env.given["style"]) == ("nano_play", "terse")
    assert other.model.path == "some/model"
    assert not {"style", "machines", "chunk"} & set(other.env.given)
    if game != "delethink":
        assert own.env.given["arguments"] == {"is_slippery": False}


@pytest.mark.parametrize("game", ["delethink", "lake"])
def test_it_starts_partly_skilled(
    game: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between 0.2 and 0.6 on a few tasks, give or take their interval."""
    words = ["eval", *GAMES[game], "eval.tasks=48", f"dir={tmp_path / 'run'}", "--json"]
    assert run(words) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["accuracy_low"] < 0.6
    assert report["accuracy_high"] > 0.2
    assert report["errors"] == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("game", ["delethink", "lake"])
def test_reinforcement_lifts_it(game: str, tmp_path: Path) -> None:
    """From 0.56 and 0.41; under five minutes on two cores."""
    from agentrl.train.run import train

    folder = train(compose([*GAMES[game], f"dir={tmp_path / 'run'}"]), sinks=[], command="test")
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    exams = [row["eval/accuracy_low"] for row in rows if "eval/accuracy_low" in row]
    assert exams[-1] > 0.8
