"""`agentrl data index`: an index that is whole or not there, and words that are understood."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from agentrl.cli import data, serve
from agentrl.cli.data_index import command
from agentrl.cli.retriever_words import read_retriever
from agentrl.errors import UserError
from agentrl_tools.search.fts5 import Fts5


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "c.jsonl"
    rows = [{"id": i, "contents": f'"T{i}"\nword{i} same'} for i in range(1234)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*words: Any) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_an_index_is_written_and_searched(corpus: Path) -> None:
    said = run(corpus)
    index = corpus.with_name("c.jsonl.fts5")
    assert said.startswith(f"1,234 passages -> {index} (0.")
    retriever = Fts5(str(index))
    assert [hit.passage.id for hit in retriever.find("word77", 3)] == ["77"]
    assert [hit.passage.id for hit in retriever.find("same", 2)] == ["0", "1"]
    with pytest.raises(UserError, match="is there already; say --overwrite"):
        run(f"corpus={corpus}")
    corpus.write_text('{"id": 1, "contents": "other words"}\n')
    run(corpus, "--overwrite")
    assert Fts5(str(index)).find("other", 3)[0].passage.id == "1"
    assert {path.name for path in corpus.parent.iterdir()} == {"c.jsonl", "c.jsonl.fts5"}


def test_a_folder_takes_the_place_of_a_folder(corpus: Path) -> None:
    pytest.importorskip("bm25s")
    out = corpus.parent / "deep" / "i"
    run(corpus, "retriever=bm25s", "stem=false", "--out", out)
    (out / "old").write_text("")
    run(corpus, "retriever=bm25s", "stem=false", "--out", out, "--overwrite")
    assert not (out / "old").exists()
    assert json.loads((out / "agentrl_index.json").read_text())["made_with"] == {"stem": False}
    run(corpus, "--out", out, "--overwrite")
    assert out.is_file()
    assert [path.name for path in out.parent.iterdir()] == ["i"]


def test_a_failure_leaves_what_was_there(corpus: Path) -> None:
    run(corpus)
    index = corpus.with_name("c.jsonl.fts5")
    before = index.read_bytes()
    with corpus.open("a") as file:
        file.write('{"id": 0, "contents": "again"}\n')
    with pytest.raises(UserError, match=r"c\.jsonl:1235: the id '0' stands on line 1 already"):
        run(corpus, "--overwrite")
    assert index.read_bytes() == before
    assert len(list(corpus.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["absent.jsonl"], "there is no file absent.jsonl"),
        (["{c}", "retriever=remote"], "the retriever 'remote' has no index to build"),
        (["{c}", "retriever=tantivi"], "did you mean 'tantivy'"),
        (["{c}", "thread=3"], "unknown key 'retriever.thread'; did you mean 'threads'"),
        (["{c}", "threads=many"], "retriever.threads"),
        (["{c}", "other.jsonl"], "one corpus at a time"),
        (["{c}", "corpus=other.jsonl"], "two corpora"),
        (["{c}", "name=bm25s"], "retriever=<name>"),
        (["{c}", "over=[fts5"], "cannot read the options"),
    ],
)
def test_words_that_are_not_understood(corpus: Path, words: list[str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        run(*(word.format(c=corpus) for word in words))
    assert told in str(caught.value)


def test_words_become_a_node() -> None:
    node = read_retriever(["c.jsonl", "retriever=hybrid", "over=[fts5,dense]", "constant=10"])
    assert node.name == "hybrid"
    assert node.given == {"corpus": "c.jsonl", "over": ["fts5", "dense"], "constant": 10}
    assert read_retriever([]).name == "fts5"


def test_a_bar_on_a_terminal_only(corpus: Path) -> None:
    argv = [sys.executable, "-m", "agentrl.cli", "data", "index", str(corpus), "--overwrite"]
    piped = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    assert (piped.stderr, piped.stdout.count("\n")) == ("", 1)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(argv, stderr=theirs, stdout=subprocess.PIPE, timeout=100, env=environment)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "100%" in shown or "indexing" in shown
    assert "━" in shown


@pytest.mark.parametrize("group", [data, serve])
def test_summaries_are_the_commands_own(group: Any) -> None:
    context = click.Context(group.command)
    for name in {"index", "retriever"} & set(group.SUBCOMMANDS):
        found = group.command.get_command(context, name)
        assert found.help.partition("\n")[0] == group.SUBCOMMANDS[name]
