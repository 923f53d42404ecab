"""Scores worked out by hand or by a plain second implementation, for every kind of index."""

from __future__ import annotations

import math
import re
import sqlite3
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.config import Plugin
from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.plugins import build
from agentrl.registry import resolve
from agentrl.retrieval import Hit, Passage
from agentrl.testing import failures
from agentrl.testing.retriever_kit import TOPICS, check_retriever
from agentrl_tools.search import local
from agentrl_tools.search.bm25s import best
from agentrl_tools.search.fts5 import Fts5
from agentrl_tools.search.hybrid import fused

LIBRARY = {"bm25s": "bm25s", "tantivy": "tantivy", "dense": "faiss"}


def made(name: str, passages: Sequence[Passage] | None = None, **options: Any) -> Any:
    """A retriever by name; skips where its library is not installed."""
    if name in LIBRARY:
        pytest.importorskip(LIBRARY[name], reason=f"{name} needs agentrl-framework[search]")
    if passages is not None:
        options["passages"] = passages
    return build("retriever", Plugin.model_validate({"name": name, **options}))


async def ids(retriever: Any, query: str, k: int = 3) -> list[str]:
    (hits,) = await retriever.search([query], k=k)
    return [hit.passage.id for hit in hits]


def bm25(
    texts: Sequence[str], words: Iterable[str], *, k1: float, numerator: float, idf: Any
) -> list[float]:
    """Okapi BM25 (Robertson and Zaragoza 2009, equation 3.15), b = 0.75, term by term."""
    split = [text.split() for text in texts]
    average = sum(map(len, split)) / len(split)
    scores = [0.0] * len(texts)
    for word in words:
        held = sum(word in row for row in split)
        for i, row in enumerate(split):
            f = Counter(row)[word]
            around = f + k1 * (0.25 + 0.75 * len(row) / average)
            scores[i] += idf(len(split), held) * numerator * f / around
    return scores


def sqlite_idf(n: int, held: int) -> float:
    """https://sqlite.org/fts5.html, section 5.1.1, with the floor of its source."""
    value = math.log((n - held + 0.5) / (held + 0.5))
    return value if value > 0 else 1e-6


def lucene_idf(n: int, held: int) -> float:
    return math.log(1 + (n - held + 0.5) / (held + 0.5))


def random_corpus(seed: int, n: int = 60) -> list[Passage]:
    """Words of very different frequency, so that some stand in most passages."""
    rng = Random(seed)
    words = ["zog", "bim", "tak", "ruv", "lof", "mip", "nad", "pex"]
    weights = [40, 20, 8, 4, 2, 1, 1, 1]
    return [
        Passage(f"{i:03}", "", " ".join(rng.choices(words, weights, k=rng.randint(1, 9))))
        for i in rng.sample(range(n), n)
    ]


async def test_fts5_by_hand() -> None:
    """Four passages of 2, 2, 2 and 2 words: idf(1 of 4) = ln(3.5 / 1.5) = 0.8473; equal lengths and
    one occurrence make the rest 2.2 / 2.2."""
    texts = ["red fox", "blue fox", "green fox", "grey owl"]
    passages = [Passage(str(i), "", text) for i, text in enumerate(texts)]
    retriever = Fts5(passages=passages)
    ((hit,),) = await retriever.search(["owl"], k=3)
    assert hit == Hit(passages[3], pytest.approx(math.log(3.5 / 1.5)))
    hits = (await retriever.search(["the red foxes"], k=3))[0]
    assert [hit.passage.id for hit in hits] == ["0", "1", "2"]
    assert hits[0].score == pytest.approx(0.84730 + 1e-6, abs=1e-5)
    assert hits[1].score == pytest.approx(1e-6)
    await retriever.close()


@pytest.mark.parametrize("seed", range(3))
async def test_fts5_is_okapi_with_and_without_common_words(seed: int) -> None:
    """Leaving out words of half the passages changes no order and no score by more than 1e-5."""
    passages = random_corpus(seed)
    texts = [p.text for p in sorted(passages, key=lambda p: p.id)]
    retriever = Fts5(passages=passages)
    for query in ("tak", "zog tak", "zog bim ruv pex", "zog", "zog bim", "mip lof nad quux"):
        want = bm25(texts, query.split(), k1=1.2, numerator=2.2, idf=sqlite_idf)
        (hits,) = await retriever.search([query], k=5)
        order = sorted(range(len(texts)), key=lambda i: (-round(want[i], 7), i))
        assert len(hits) == min(5, sum(score > 0 for score in want))
        for hit, i in zip(hits, order, strict=False):
            assert hit.score == pytest.approx(want[i], rel=1e-5, abs=1e-5)
            assert hit.score == pytest.approx(want[int(hit.passage.id)], rel=1e-5, abs=1e-5)
    await retriever.close()


@pytest.mark.parametrize(
    ("name", "options", "k1", "numerator"),
    [("bm25s", {"stem": False}, 1.5, 1.0), ("tantivy", {}, 1.2, 2.2)],
)
async def test_the_libraries_are_okapi_too(
    name: str, options: dict[str, Any], k1: float, numerator: float
) -> None:
    passages = random_corpus(7)
    texts = [p.text for p in sorted(passages, key=lambda p: p.id)]
    retriever = made(name, passages, **options)
    for query in ("tak", "zog ruv", "pex mip nad"):
        want = bm25(texts, query.split(), k1=k1, numerator=numerator, idf=lucene_idf)
        (hits,) = await retriever.search([query], k=60)
        assert len(hits) == sum(score > 0 for score in want)
        for hit in hits:
            assert hit.score == pytest.approx(want[int(hit.passage.id)], rel=1e-4)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    await retriever.close()


@pytest.mark.parametrize("name", ["fts5", "bm25s", "tantivy"])
async def test_stems_accents_and_scripts(name: str) -> None:
    retriever = made(
        name,
        [
            Passage("a", "Falcons", "They were nesting."),
            Passage("b", "Café", "un résumé"),
            Passage("c", "東京", "日本 の 首都"),
            Passage("d", "x_y", "snake_case under_score"),
            *(Passage(f"z{i}", "", f"filler {i}") for i in range(9)),
        ],
    )
    assert await ids(retriever, "a falcon nests") == ["a"]
    assert await ids(retriever, "RÉSUMÉ") == ["b"]
    assert await ids(retriever, "re\u0301sume\u0301") == ["b"]
    assert await ids(retriever, "東京 は?") == ["c"]
    assert await ids(retriever, "snake case") == ["d"]
    assert await ids(retriever, "under") == ["d"]
    await retriever.close()


async def test_a_long_tie_is_cut_by_id_everywhere() -> None:
    """Longer than what is fetched beyond k at first."""
    passages = [Passage(f"{i:04}", "", "same words") for i in Random(0).sample(range(300), 300)]
    for name in ("fts5", "bm25s", "tantivy"):
        retriever = made(name, passages)
        assert await ids(retriever, "words", 7) == [f"{i:04}" for i in range(7)]
        await retriever.close()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 40))
def test_the_best_of_scores(values: list[int], k: int) -> None:
    want = sorted((i for i, v in enumerate(values) if v > 0), key=lambda i: (-values[i], i))
    assert best(np.array(values, dtype=np.float32), k) == want[:k]


def test_fusion_by_hand() -> None:
    """1/61 + 1/63 = 0.032266 for a, 1/62 + 1/61 = 0.032522 for b, 1/63 for c, 1/62 for d."""
    a, b, c, d = (Hit(Passage(name, "", name), 9.0) for name in "abcd")
    hits = fused([[a, b, c], [b, d, a]], k=9)
    assert [hit.passage.id for hit in hits] == ["b", "a", "d", "c"]
    assert [hit.score for hit in hits] == pytest.approx(
        [0.0325225, 0.0322665, 1 / 62, 1 / 63], rel=1e-5
    )
    assert [h.passage.id for h in fused([[b], [a]], k=1)] == ["a"]
    assert [h.score for h in fused([[b]], k=1, constant=0)] == [1.0]


@settings(max_examples=30)
@given(st.lists(st.permutations("abcdef"), min_size=1, max_size=4))
def test_fusion_does_not_care_who_says_it(rankings: list[list[str]]) -> None:
    given_hits = [[Hit(Passage(name, "", ""), 0.0) for name in ranking] for ranking in rankings]
    assert [h.passage.id for h in fused(given_hits, k=9)] == [
        h.passage.id for h in fused(given_hits[::-1], k=9)
    ]
    one = [h.passage.id for h in fused(given_hits[:1], k=9)]
    assert one == rankings[0]


def word_counts() -> Callable[[Sequence[str]], Any]:
    """An encoder without a model: how often each of 4,096 kinds of words occurs."""

    def encode(texts: Sequence[str]) -> list[list[int]]:
        rows = [[0] * 4096 for _ in texts]
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % 4096] += 1
        return rows

    return encode


@pytest.fixture(autouse=True, scope="module")
def stranger() -> Iterator[None]:
    """A module that brings the encoder."""
    module = ModuleType("stranger_encoder")
    module.__dict__["word_counts"] = word_counts
    sys.modules[module.__name__] = module
    yield
    del sys.modules[module.__name__]


DENSE = {"name": "dense", "encoder": "stranger_encoder:word_counts"}
OPTIONS: dict[str, dict[str, Any]] = {
    "dense": {"encoder": DENSE["encoder"]},
    "hybrid": {"over": ["fts5", DENSE]},
}


@pytest.mark.parametrize("name", ["fts5", "bm25s", "tantivy", "dense", "hybrid"])
async def test_each_passes_the_kit(name: str) -> None:
    if name == "hybrid":
        pytest.importorskip("faiss", reason="dense needs agentrl-framework[search]")

    def over(passages: Sequence[Passage]) -> Any:
        return made(name, passages, **OPTIONS.get(name, {}))

    over(TOPICS[:1])  # skips, outside the kit, where a library is missing
    results = await check_retriever(over=over)
    assert len(results) == 18
    assert failures(results) == []


@pytest.mark.parametrize("name", ["fts5", "bm25s", "tantivy", "dense"])
async def test_an_index_on_disk_finds_the_same(name: str, tmp_path: Path, corpus_file: Any) -> None:
    options = OPTIONS.get(name, {})
    memory = made(name, TOPICS, **options)
    corpus, index = corpus_file(TOPICS), tmp_path / "index"
    heard: list[int] = []
    count = resolve("retriever", name).build_index(corpus, index, heard.append, **options)
    assert count == 10
    assert heard[-1] == corpus.stat().st_size
    disk = made(name, corpus=str(index), **options)
    queries = [passage.text for passage in TOPICS]
    assert await disk.search(queries, k=4) == await memory.search(queries, k=4)
    for retriever in (disk, memory):
        await retriever.close()
    wrong = "fts5" if name != "fts5" else "tantivy"
    with pytest.raises(UserError, match=r"is an index already|is a folder"):
        made(wrong, corpus=str(index))


async def test_what_an_index_was_made_with_is_remembered(tmp_path: Path, corpus_file: Any) -> None:
    made("bm25s", TOPICS[:1])
    index = tmp_path / "i"
    build_index = resolve("retriever", "bm25s").build_index
    build_index(corpus_file(TOPICS), index, lambda _: None, stem=False)
    with pytest.raises(UserError, match="was built with stem=false, and now it is true"):
        made("bm25s", corpus=str(index))
    with pytest.raises(UserError, match="is an index of retriever=bm25s, not tantivy"):
        made("tantivy", corpus=str(index))
    (index / "agentrl_index.json").write_text("{}")
    with pytest.raises(UserError, match="is an index of retriever=None"):
        made("bm25s", corpus=str(index), stem=False)
    (index / "agentrl_index.json").unlink()
    with pytest.raises(UserError, match="is no search index"):
        made("bm25s", corpus=str(index), stem=False)


async def test_a_file_that_is_no_index_of_ours(tmp_path: Path, corpus_file: Any) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t(x)")
    connection.close()
    with pytest.raises(UserError, match="is no search index of this version"):
        Fts5(str(path))
    with pytest.raises(UserError, match="is a folder"):
        Fts5(str(tmp_path))
    index = tmp_path / "cut.fts5"
    many = [Passage(str(i), "", f"word{i} " * 50) for i in range(300)]
    Fts5.build_index(corpus_file(many), index, lambda _: None)
    data = index.read_bytes()
    index.write_bytes(data[:4096] + bytes(len(data) - 4096))
    with pytest.raises(UserError, match=r"cut\.fts5 is damaged"):
        Fts5(str(index))
    index.write_bytes(data)
    connection = sqlite3.connect(index)
    with connection:
        connection.execute("UPDATE words_data SET block = X'FFFFFFFFFFFFFFFFFF' WHERE id > 100")
    connection.close()
    retriever = Fts5(str(index))
    with pytest.raises(WorldFault, match=r"cut\.fts5 failed"):
        await retriever.search(["word7"], k=1)
    await retriever.close()


@pytest.mark.parametrize("name", ["bm25s", "tantivy", "dense"])
def test_a_missing_library_is_named_with_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> Any:
        raise ImportError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(local.importlib, "import_module", missing)
    factory = resolve.__globals__["_entries"]("retriever")[name].load()
    with pytest.raises(SetupError, match=r"pip install 'agentrl-framework\[search\]'"):
        factory(passages=TOPICS)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"over": ["fts5"]}, "needs two retrievers"),
        ({"over": ["fts5", "fts6"]}, "did you mean 'fts5'"),
        ({"over": ["fts5", {"corpus": "x"}]}, "is a name or has one"),
        ({"over": ["fts5", {"name": "fts5", "thread": 1}]}, "unknown key 'retriever.thread'"),
    ],
)
def test_hybrids_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        made("hybrid", TOPICS, **options)


async def test_a_hybrid_fails_as_its_member_does() -> None:
    retriever = made("hybrid", TOPICS, over=["fts5", "fts5"])
    await retriever._over[1].close()
    with pytest.raises(WorldFault, match="Fts5 is closed"):
        await retriever.search(["falcon"], k=1)
    await retriever.close()
