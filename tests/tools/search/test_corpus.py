"""Corpora as they are found in the wild, and what is said about broken ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.errors import UserError
from agentrl.retrieval import Passage, contents_of, split_contents
from agentrl_tools.search.corpus import (
    STARTER,
    checked,
    one_line,
    passage_of,
    read_corpus,
    read_lines,
)
from agentrl_tools.search.fts5 import Fts5
from agentrl_tools.search.words import MOST_WORDS, query_words, words_of

TEXT = st.text(st.characters(blacklist_categories=["Cs"]))


def test_both_forms_and_both_kinds_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(
        '{"id": "b", "contents": "\\"Evan Morris\\"\\nEvan L. Morris was a lobbyist.\\nTwice."}\n'
        "\n"
        '{"id": 7, "title": "Two\\n words", "text": "x"}\n'
        '{"id": "a", "text": "no title", "more": [1]}\n'
        '{"id": "c", "contents": "one line"}\n'
        '{"id": "d", "contents": "Bare title\\nand text"}',
        "utf-8",
    )
    assert read_corpus(path) == [
        Passage("7", "Two words", "x"),
        Passage("a", "", "no title"),
        Passage("b", "Evan Morris", "Evan L. Morris was a lobbyist.\nTwice."),
        Passage("c", "", "one line"),
        Passage("d", "Bare title", "and text"),
    ]
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    heard: list[int] = []
    assert [number for number, _ in read_lines(packed, heard.append)] == [1, 3, 4, 5, 6]
    assert heard == [packed.stat().st_size]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"c\.jsonl\.gz is no complete gzip file"):
        read_corpus(packed)


@given(TEXT, TEXT)
def test_contents_give_title_and_text_back(title: str, text: str) -> None:
    passage = Passage("x", one_line(title), text)
    assert split_contents(contents_of(passage)) == (passage.title, text)
    line = json.dumps({"id": "x", "contents": contents_of(passage)})
    assert passage_of(line, "here") == passage


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "1", "contents":', "column 24: no JSON (Expecting value)"),
        ("[1]", "list instead of a JSON object"),
        ("null", "NoneType instead of a JSON object"),
        ('{"contents": "x"}', '"id" must be a string or a number, not None'),
        ('{"id": "", "contents": "x"}', '"id" must be a string or a number'),
        ('{"id": true, "contents": "x"}', '"id" must be a string or a number, not True'),
        ('{"id": 1}', 'needs "contents", or "title" and "text"'),
        ('{"id": 1, "contents": null, "text": 3}', 'needs "contents"'),
        ('{"id": 1, "title": ["x"], "text": "y"}', 'needs "contents"'),
        ('{"id": 1, "contents": "\\ud800"}', "half of a surrogate pair"),
        ("[" * 100_000, "no JSON"),
        (b"\xff\xfe{}", "no JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str | bytes, told: str) -> None:
    path = tmp_path / "bad.jsonl"
    data = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"id": "0", "contents": "good"}\n\n' + data + b"\n")
    for read in (lambda: read_corpus(path), lambda: Fts5(str(path))):
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}:3")
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_id_that_occurs_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    rows = [{"id": name, "contents": "x"} for name in ("a", "b", 5, "5")]
    path.write_text("\n".join(map(json.dumps, rows)))
    told = f"{path}:4: the id '5' stands on line 3 already; ids must be unique"
    with pytest.raises(UserError) as caught:
        read_corpus(path)
    assert str(caught.value) == told
    with pytest.raises(UserError) as caught:
        Fts5.build_index(path, tmp_path / "index", lambda _: None)
    assert str(caught.value) == told
    with pytest.raises(UserError, match="two passages have the id 'a'"):
        checked([Passage("a", "", "x"), Passage("b", "", "x"), Passage("a", "", "y")])


def test_no_corpus_and_none_in_it(tmp_path: Path) -> None:
    (tmp_path / "blank.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match=r"blank\.jsonl holds no passage"):
        read_corpus(tmp_path / "blank.jsonl")
    with pytest.raises(UserError, match=r"blank\.jsonl holds no passage"):
        Fts5.build_index(tmp_path / "blank.jsonl", tmp_path / "index", lambda _: None)
    with pytest.raises(UserError, match="there is no corpus"):
        Fts5(str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match="a retriever needs a corpus"):
        Fts5()


def test_the_starter_corpus_is_one() -> None:
    passages = read_corpus(STARTER)
    assert len(passages) == 40
    assert all(passage.title and passage.text for passage in passages)


def test_words_of_a_query() -> None:
    assert words_of('What is "beta-carotene"? (x_y) 3.5²') == [
        *("what", "is", "beta", "carotene", "x", "y", "3", "5²"),
    ]
    assert words_of("re\u0301sume\u0301 \ud800 🎉\0日本") == ["résumé", "日本"]
    assert query_words("a b a " * 9) == ["a", "b"]
    assert len(query_words(" ".join(map(str, range(1000))))) == MOST_WORDS
