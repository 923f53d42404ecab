"""Loading problems: published files' counts, every layout, and the line of every bad row."""

from __future__ import annotations

import gzip
import json
import logging
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentrl.data.tasks import load_hub_tasks, load_tasks
from agentrl.errors import SetupError, UserError
from agentrl.types import Task

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def published(name: str) -> str:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return str(path)


def write(tmp_path: Path, *lines: object, name: str = "set.jsonl") -> str:
    """A jsonl file; strings are written as they are."""
    path = tmp_path / name
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return str(path)


def refused(path: str, layout: str | None = None) -> str:
    """The message, without the folder."""
    with pytest.raises(UserError) as caught:
        load_tasks(path, layout=layout)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(Path(path).parent) + "/", "")


GOOD = {"question": "What is 6*7?", "answer": "<<6*7=42>>42\n#### 42"}


@pytest.mark.parametrize(
    ("name", "n", "answer"),
    [
        ("gsm8k_train.jsonl", 7473, "72"),
        ("gsm8k_test.jsonl", 1319, "18"),
        ("math500.jsonl", 500, "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("aime24.jsonl", 30, "45"),
        ("aime25.jsonl", 30, "70"),
        ("hotpotqa.jsonl", 200, "Frank Lowy"),
    ],
)
def test_published_files(name: str, n: int, answer: str) -> None:
    tasks = load_tasks(published(name))
    assert (len(tasks), len({t.id for t in tasks}), tasks[0].answer) == (n, n, answer)
    assert all(t.question and t.answer for t in tasks)
    assert tasks == load_tasks(published(name))


def test_gsm8k_keeps_its_solution_and_loses_its_commas() -> None:
    tasks = load_tasks(published("gsm8k_train.jsonl"))
    assert "<<48/2=24>>" in str(tasks[0].metadata["solution"])
    assert not any("," in str(t.answer) or "#" in str(t.answer) for t in tasks)


def test_nested_chat_prompts(caplog: pytest.LogCaptureFixture) -> None:
    """10,000 rows of which one has a blank gold: refused by line, or left out and said so."""
    path = published("arpo_rl_10k.parquet")
    assert refused(path) == (
        "arpo_rl_10k.parquet:5275: neither reward_model.ground_truth nor answer holds text; "
        "fill one or drop the row, or set data.unanswered=drop"
    )
    with caplog.at_level(logging.WARNING):
        tasks = load_tasks(path, unanswered="drop")
    assert "left out 1 rows without an answer" in caplog.text
    assert ":5275" in caplog.text
    assert Counter(t.metadata["domain"] for t in tasks) == {"math": 4999, "qa": 5000}
    assert tasks[0].answer == "3\\sqrt{3} - 6"
    assert tasks[0].question.startswith("Triangle  $ABC$  is equilateral")
    assert not any("You are a helpful assistant" in t.question for t in tasks)


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD, "not json")
    assert len(load_tasks(path, limit=2)) == 2
    with pytest.raises(UserError, match=r"data\.limit must be at least 1, not 0"):
        load_tasks(path, limit=0)


LAYOUTS = {
    "gsm8k": ({"question": "q", "answer": "so\n#### 1,234"}, "1234"),
    "math": (
        {"problem": "q", "solution": "so \\boxed{\\frac{1}{2}}.", "level": "3"},
        "\\frac{1}{2}",
    ),
    "math ": ({"question": "q", "answer": 7, "subject": None}, "7"),
    "aime": ({"input": "q", "output": 204}, "204"),
    "qa": ({"question": "q", "answer": ["Rome", " Roma "]}, "Rome"),
    "chat": (
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
            "reward_model": {"ground_truth": "5"},
            "ability": "math",
        },
        "5",
    ),
    "code": (
        {
            "prompt": "q",
            "entry_point": "f",
            "test": "def check(f): ...",
            "canonical_solution": " 1 ",
        },
        " 1 ",
    ),
    "chat ": ({"prompt": [{"role": "user", "content": "q"}], "answer": "6"}, "6"),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_each_layout_is_found_and_can_be_named(tmp_path: Path, name: str, suffix: str) -> None:
    row, answer = LAYOUTS[name]
    path = tmp_path / f"set.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif suffix == "jsonl.gz":
        path.write_bytes(gzip.compress(json.dumps(row).encode()))
    else:
        path.write_text(json.dumps(row))
    (task,) = load_tasks(str(path))
    assert (task.question, task.answer) == ("q", answer)
    assert task.id.startswith("set/0-")
    assert [task] == load_tasks(str(path), layout=name.strip())


def test_what_layouts_keep(tmp_path: Path) -> None:
    def metadata(row: object) -> dict[str, object]:
        return dict(load_tasks(write(tmp_path, row))[0].metadata)

    assert metadata(LAYOUTS["math"][0]) == {"level": "3", "solution": "so \\boxed{\\frac{1}{2}}."}
    assert metadata(LAYOUTS["qa"][0]) == {"answers": ["Rome", "Roma"]}
    assert metadata(LAYOUTS["chat"][0]) == {"domain": "math"}


def test_an_id_follows_the_content_and_the_place(tmp_path: Path) -> None:
    def ids(*rows: object) -> list[str]:
        return [t.id for t in load_tasks(write(tmp_path, *rows))]

    other = {"question": "What is 6*8?", "answer": "#### 48"}
    first, second = ids(GOOD, other)
    assert ids(GOOD, other) == [first, second]
    assert ids(other, GOOD)[1].split("-")[1] == first.split("-")[1]
    assert ids(GOOD, GOOD)[1] != first
    assert ids({**GOOD, "answer": "#### 43"})[0] != first


BLANK = "(columns: question, answer); fill it or drop the row"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [GOOD, '{"question": "q", answer}'],
            "set.jsonl:2: not JSON, expecting property name enclosed in double quotes at column 19; "
            "write one object per line",
        ),
        (
            [GOOD, "", "[1]"],
            "set.jsonl:3: expected a JSON object, got list; write {...} on each line",
        ),
        (
            [GOOD, {"question": "q", "answer": "no mark"}],
            "set.jsonl:2: answer has no final line `#### x`; add it or drop the row, "
            "or set data.unanswered=drop",
        ),
        (
            [GOOD, {"question": "q", "answer": None}],
            f"set.jsonl:2: answer is empty or not text {BLANK}, or set data.unanswered=drop",
        ),
        (
            [GOOD, {"question": "q"}],
            "set.jsonl:2: answer is missing (columns: question); fill it or drop the row, "
            "or set data.unanswered=drop",
        ),
        (
            [GOOD, {"question": "  ", "answer": "#### 4"}],
            f"set.jsonl:2: question is empty or not text {BLANK}",
        ),
        (
            [{"problem": "p", "solution": "no box"}],
            "set.jsonl:1: solution has no \\boxed{x}; add one or an answer column, "
            "or set data.unanswered=drop",
        ),
        (
            [{"prompt": [{"role": "system", "content": "s"}], "answer": "4"}],
            "set.jsonl:1: prompt has no user message with text; add one",
        ),
        (
            [{"question": "q", "answer": [1]}],
            "set.jsonl:1: answer lists no text; fill it or drop the row, or set data.unanswered=drop",
        ),
        ([""], "set.jsonl holds no rows; write one JSON object per line"),
    ],
)
def test_a_bad_row_is_named_with_its_line(
    tmp_path: Path, lines: list[object], message: str
) -> None:
    assert refused(write(tmp_path, *lines)) == message


def test_unknown_columns_are_listed(tmp_path: Path) -> None:
    message = refused(write(tmp_path, {"text": "q", "label": 1}))
    assert message.startswith("set.jsonl:1: no layout fits the columns text, label; known layouts:")
    assert "gsm8k (question, answer ending in #### x)" in message


def test_an_unknown_layout_is_answered_with_the_nearest(tmp_path: Path) -> None:
    assert "did you mean 'gsm8k'?" in refused(write(tmp_path, GOOD), layout="gsm8")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(str(tmp_path / "no.jsonl")).startswith("no.jsonl does not exist")
    assert "is a folder" in refused(str(tmp_path))
    assert "unknown ending" in refused(write(tmp_path, GOOD, name="set.csv"))
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode() * 99)[:60])
    assert refused(str(tmp_path / "torn.jsonl.gz")).startswith("torn.jsonl.gz cannot be read")
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    assert refused(str(tmp_path / "plain.jsonl.gz")).startswith("plain.jsonl.gz cannot be read")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    assert refused(str(tmp_path / "bad.parquet")).startswith(
        "bad.parquet is not a readable parquet"
    )
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    assert refused(str(tmp_path / "empty.parquet")).startswith("empty.parquet holds no rows")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9"}\n')
    assert refused(str(tmp_path / "latin.jsonl")) == (
        "latin.jsonl:1: byte 18 is not UTF-8; save as UTF-8"
    )
    (tmp_path / "deep.jsonl").write_text("[" * 200_000)
    assert refused(str(tmp_path / "deep.jsonl")).startswith("deep.jsonl:1: JSON nested too deeply")


def test_a_byte_order_mark_and_blank_lines_are_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff" + json.dumps(GOOD), "", GOOD)
    assert [t.answer for t in load_tasks(path)] == ["42", "42"]


def test_dropping_unanswered_rows_must_leave_some(tmp_path: Path) -> None:
    lines = [GOOD, {"question": "q", "answer": ""}, GOOD]
    tasks = load_tasks(write(tmp_path, *lines), unanswered="drop")
    assert [t.id.split("-")[0] for t in tasks] == ["set/0", "set/2"]
    with pytest.raises(UserError, match="no row of set has an answer"):
        load_tasks(write(tmp_path, lines[1]), layout="gsm8k", unanswered="drop")


def test_the_hub_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SetupError, match="pip install 'agentrl-framework\\[data\\]'"):
        load_hub_tasks("openai/gsm8k:main:train")


def test_hub_names() -> None:
    for name in ("a:b:c:d", ":train"):
        with pytest.raises(UserError, match="write name, name:split or name:config:split"):
            load_hub_tasks(name)


def test_a_data_set_through_the_hub_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package over a local folder; nothing is fetched."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets", reason="needs the data extra")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder, GOOD, GOOD, name="test.jsonl")
    tasks: list[Task] = load_hub_tasks(f"{folder}:test", limit=1)
    assert [(t.question, t.answer) for t in tasks] == [("What is 6*7?", "42")]
    assert tasks[0].id.startswith("mine/0-")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_hub_tasks(f"{folder}:nowhere")
