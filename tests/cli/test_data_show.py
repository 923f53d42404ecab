"""`agentrl data show`: what is told of a task, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.cli.main import run


def shown(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert run(["data", "show", *words.split()]) == 0
    return capsys.readouterr().out


def test_generated_tasks_come_with_their_experts_turns(capsys: pytest.CaptureFixture[str]) -> None:
    """The first answer must be what the last turn says, and each query the next entity of the path."""
    rows = shown(capsys, "env=search_qa n=4 split=test --json").splitlines()
    assert len(rows) == 4
    for task in map(json.loads, rows):
        assert task["id"].startswith("test/terse/")
        *way, answer = task["metadata"]["path"]
        assert task["answer"] == answer
        searches = [f"<search>{name}</search>" for name in way]
        assert task["expert"] == [*searches, f"<answer>{answer}</answer>"]


def test_it_shows_what_a_run_would_draw_first(capsys: pytest.CaptureFixture[str]) -> None:
    one = shown(capsys, "env=retool_math n=1 --json")
    assert shown(capsys, "env=retool_math n=2 --json").startswith(one)
    assert shown(capsys, "env=retool_math n=1 seed=1 --json") != one


def test_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts of a file have no demonstration; long metadata loses its middle."""
    path = tmp_path / "asked.jsonl"
    row = {"question": "Who?\nReally?", "answer": ["Bob", "B" * 700]}
    path.write_text(json.dumps(row) + "\n")
    text = shown(capsys, f"env=search_qa data.path={path}")
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0].startswith("asked/0-")
    assert lines[1:4] == [
        "      question  Who?", "                Really?", "        answer  Bob",
    ]  # fmt: skip
    assert " ... " in lines[4]
    assert len(lines[4]) < 640
    assert lines[5] == "        expert  -"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env=search_qa", "n=none"], "n=none: give a number of tasks"),
        (["env=search_qa", "split=dev"], "there are the splits train and test, not 'dev'"),
        (["env=searchqa"], "search_qa"),
    ],
)
def test_mistakes_are_sentences(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "show", *words]) == 2
    assert said in capsys.readouterr().err
