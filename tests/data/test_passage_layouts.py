"""Question files that bring passages: HotpotQA, 2WikiMultihopQA, MuSiQue; and those that do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentrl.data.tasks import load_tasks
from agentrl.errors import UserError
from agentrl.types import JsonValue, Task

DATA = Path(__file__).parents[2].parent / "shared" / "data"

PASSAGES = [
    {"title": "Ada", "text": "Ada owns Rex. She is old."},
    {"title": "Rex", "text": "Rex is fed by Bob."},
]
FACTS = [["Ada", ["Ada owns Rex.", " She is old."]], ["Rex", ["Rex is fed by Bob."]]]


def read(tmp_path: Path, row: Mapping[str, JsonValue], layout: str | None = None) -> Task:
    path = tmp_path / "asked.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return load_tasks(str(path), layout=layout)[0]


def test_hotpotqa_as_published(tmp_path: Path) -> None:
    """Sentences are joined by one blank; supporting titles come once, in order."""
    task = read(
        tmp_path,
        {
            "_id": "5a",
            "question": "Who feeds the dog of Ada?",
            "answer": "Bob",
            "type": "bridge",
            "level": "hard",
            "supporting_facts": [["Rex", 0], ["Ada", 0], ["Ada", 1]],
            "context": FACTS,
        },
    )
    assert (task.question, task.answer) == ("Who feeds the dog of Ada?", "Bob")
    assert task.metadata == {
        "answers": ["Bob"],
        "passages": PASSAGES,
        "support": ["Rex", "Ada"],
        "type": "bridge",
        "level": "hard",
    }


def test_hotpotqa_in_columns(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        {
            "question": "Who?",
            "answer": "Bob",
            "supporting_facts": {"title": ["Rex"], "sent_id": [0]},
            "context": {"title": [t for t, _ in FACTS], "sentences": [s for _, s in FACTS]},
        },
    )
    assert task.metadata == {"answers": ["Bob"], "passages": PASSAGES, "support": ["Rex"]}


def test_2wiki_as_json_in_strings(tmp_path: Path) -> None:
    row = {
        "question": "Who?",
        "answer": "Bob",
        "supporting_facts": json.dumps([["Ada", 1]]),
        "context": json.dumps(FACTS),
    }
    task = read(tmp_path, row)
    assert task.metadata == {"answers": ["Bob"], "passages": PASSAGES, "support": ["Ada"]}
    broken = {**row, "context": "[not JSON"}
    with pytest.raises(UserError, match="no passage can be read"):
        read(tmp_path, broken, layout="hotpotqa")


def test_musique_with_aliases(tmp_path: Path) -> None:
    task = read(
        tmp_path,
        {
            "question": "Who?",
            "answer": "Bob",
            "answer_aliases": ["Robert", " "],
            "paragraphs": [
                {"title": "Ada", "paragraph_text": "Ada owns Rex. She is old.", "idx": 0},
                {"title": "Rex", "paragraph_text": "Rex is fed by Bob.", "is_supporting": True},
            ],
        },
    )
    assert task.metadata == {"answers": ["Bob", "Robert"], "passages": PASSAGES, "support": ["Rex"]}


def test_a_file_without_readable_passages_is_told(tmp_path: Path) -> None:
    row = {"question": "Who?", "answer": "Bob", "context": ["free text"]}
    with pytest.raises(UserError, match=r"asked\.jsonl:1: no passage can be read"):
        read(tmp_path, row)
    with pytest.raises(UserError, match=r"asked\.jsonl:1: answer is missing"):
        read(tmp_path, {"question": "Who?", "context": FACTS}, layout="hotpotqa")


@pytest.mark.parametrize(
    ("name", "n", "answer"),
    [
        ("hotpotqa", 200, "Frank Lowy"),
        ("2wiki", 200, "the five boroughs"),
        ("musique", 200, "passes over the Rio di Palazzo"),
        ("bamboogle", 125, "james madison"),
    ],
)
def test_question_files_of_this_project(name: str, n: int, answer: str) -> None:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{path.name}")
    tasks = load_tasks(str(path))
    assert (len(tasks), tasks[0].answer) == (n, answer)
    assert all(task.answer == task.metadata["answers"][0] for task in tasks)  # type: ignore[index]
