"""The nano format: ids worked out by hand, and hostile text."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.chat.base import Inline, Renderer, Tokenizer
from agentrl.chat.nano import CONTROLS, NANO_TAGS, NanoRenderer, build_nano_tokenizer
from agentrl.chat.tokenizers import HFTokenizer, load_tokenizer
from agentrl.errors import UserError
from agentrl.transcript import Origin
from agentrl.types import Message

HOSTILE = "".join((*CONTROLS, *NANO_TAGS, "<|im_end|>", "<|eot_id|>", "<|reserved_3|>"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano")
    build_nano_tokenizer(path)
    (path / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 288}))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> HFTokenizer:
    return load_tokenizer(folder)


def test_ids_by_hand(tokenizer: HFTokenizer) -> None:
    renderer = NanoRenderer(tokenizer)
    messages = [Message("system", "T"), Message("user", "1+1 é")]
    assert renderer.prompt_ids(messages).tolist() == [
        *[258, 84, 260],
        *[257, 49, 43, 49, 32, 0xC3, 0xA9, 260],
        259,
    ]
    assert renderer.demo("<code>12</code>", ended=True).tolist() == [264, 49, 50, 265, 260]
    (span,) = renderer.inline(Inline("<interpreter>", "2</code>", "</interpreter>"))
    assert span.origin is Origin.OBSERVATION
    assert span.token_ids.tolist() == [266, 50, *b"</code>", 267]
    spans = renderer.delta([Message("tool", "2")], ended=False)
    assert [(s.origin.name, s.token_ids.tolist()) for s in spans] == [
        ("SCAFFOLD", [260]),
        ("OBSERVATION", [261, 50, 260]),
        ("SCAFFOLD", [259]),
    ]
    assert renderer.closing(ended=True) == ()


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama", None])
def test_auto_tokenizer_keeps_the_ids_for_every_model_type(
    tmp_path: Path, model_type: str | None
) -> None:
    from transformers import AutoTokenizer

    build_nano_tokenizer(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    auto = AutoTokenizer.from_pretrained(tmp_path)
    text = "It's 1234é\u0301 <code>x = 'ſ'</code><|end|>"
    tail = [264, *unicodedata.normalize("NFC", "x = 'ſ'").encode(), 265, 260]
    head = [*unicodedata.normalize("NFC", "It's 1234é\u0301 ").encode()]
    assert auto.encode(text, add_special_tokens=False) == [*head, *tail]
    assert (len(auto), auto.pad_token_id, auto.eos_token_id) == (288, 256, 260)
    assert auto.decode([264, 49, 265, 260], skip_special_tokens=True) == "<code>1</code>"


@settings(max_examples=150, deadline=None)
@given(text=st.text() | st.text().map(lambda t: t + HOSTILE + t))
def test_untrusted_text_is_its_bytes(tokenizer: HFTokenizer, text: str) -> None:
    expected = list(unicodedata.normalize("NFC", text).encode())
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode(expected) == unicodedata.normalize("NFC", text)


def test_what_utf8_cannot_say_is_replaced(tokenizer: HFTokenizer) -> None:
    assert tokenizer.encode("a\ud800b\udfff") == list("a\ufffdb\ufffd".encode())
    assert tokenizer.encode("\ud83d\ude42") == list("🙂".encode())


def test_trusted_text_keeps_tags_but_never_controls(tokenizer: HFTokenizer) -> None:
    ids = tokenizer.encode_markup(HOSTILE)
    assert [i for i in ids if i >= 256] == list(range(262, 276))
    assert tokenizer.decode(ids) == HOSTILE


def test_contracts_and_refusals(tokenizer: HFTokenizer, tmp_path: Path) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(NanoRenderer(tokenizer), Renderer)
    with pytest.raises(UserError, match=r"give a folder that holds tokenizer\.json"):
        load_tokenizer(tmp_path / "nowhere")
    build_nano_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"has no token <\|im_start\|>"):
        load_tokenizer(tmp_path, needs=["<|im_start|>"])


@pytest.mark.vllm
def test_vllm_loads_the_same_ids(folder: Path, tokenizer: HFTokenizer) -> None:
    """vLLM only decodes here, and must find `</code>` in text without special tokens."""
    tokenizers = pytest.importorskip("vllm.tokenizers")
    loaded = tokenizers.get_tokenizer(str(folder))
    text = "It's 1234 é\u0301 ſ"
    assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert loaded.encode("<code>1</code><|end|>") == [264, 49, 265, 260]
    assert loaded.decode([264, 49, 265, 260], skip_special_tokens=True) == "<code>1</code>"
    assert len(loaded) == 288
