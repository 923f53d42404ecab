"""Choosing a renderer, and refusing tokenizers and templates that fit none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentrl.chat.base import Inline, Renderer, Span
from agentrl.chat.chatml import qwen3, qwen25
from agentrl.chat.doctor import RENDERERS, check_template, renderer_for
from agentrl.chat.nano import NanoRenderer
from agentrl.chat.tokenizers import HFTokenizer
from agentrl.errors import UserError
from agentrl.transcript import Int32Array, Origin, ids_array
from agentrl.types import Message


@pytest.mark.parametrize(
    ("fixture", "name"),
    [("nano", "nano"), ("qwen25", "qwen2.5"), ("qwen3", "qwen3"), ("llama", "llama-3")],
)
def test_the_family_is_seen_in_the_vocabulary(
    fixture: str, name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(f"{fixture}_tokenizer")
    renderer = renderer_for(tokenizer)
    assert renderer.name == name
    assert isinstance(renderer, Renderer)
    findings = check_template(renderer)
    assert [f.check for f in findings] == ["end ids", "prefix", "neutralised", "readable"]
    assert all(f.ok for f in findings), findings


@pytest.mark.parametrize(
    ("fixture", "template", "name"),
    [
        ("qwen25", "qwen2_5", "qwen2.5"),
        ("qwen3", "qwen3", "qwen3"),
        ("qwen3", "qwen3_instruct_2507", "qwen3-instruct"),
        ("llama", "llama3_1", "llama-3"),
    ],
)
def test_the_stored_template_decides(
    fixture: str,
    template: str,
    name: str,
    published: Callable[[str], str],
    request: pytest.FixtureRequest,
) -> None:
    wrapped: Any = request.getfixturevalue(f"{fixture}_hf")
    wrapped.chat_template = published(template)
    try:
        renderer = renderer_for(HFTokenizer(wrapped))
        assert renderer.name == name
        assert check_template(renderer)[-1].check == "published"
        assert check_template(renderer)[-1].ok
    finally:
        wrapped.chat_template = None


def test_an_unknown_template_is_refused_until_named(qwen25_hf: Any) -> None:
    qwen25_hf.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    try:
        tokenizer = HFTokenizer(qwen25_hf)
        with pytest.raises(UserError, match=r"differs from every renderer.*set model\.renderer"):
            renderer_for(tokenizer)
        named = renderer_for(tokenizer, "qwen2.5")
        (finding,) = [f for f in check_template(named) if f.check == "published"]
        assert not finding.ok
        assert "[What is 2 + 3?]" in finding.detail
        qwen25_hf.chat_template = "{{ raise_exception('no') }}"
        assert not check_template(qwen25(HFTokenizer(qwen25_hf)))[-1].ok
    finally:
        qwen25_hf.chat_template = None


def test_unknown_names_and_families(
    nano_tokenizer: HFTokenizer, qwen25_tokenizer: HFTokenizer
) -> None:
    with pytest.raises(UserError, match=r"did you mean 'qwen2.5'\? known are nano, qwen2.5"):
        renderer_for(qwen25_tokenizer, "qwen25")
    for name in RENDERERS.keys() - {"nano"}:
        with pytest.raises(UserError, match="needs the token"):
            renderer_for(nano_tokenizer, name)
    with pytest.raises(UserError, match="nano format needs the token <pad>"):
        renderer_for(qwen25_tokenizer, "nano")


class Leaky:
    """A renderer that encodes tool output as if it were trusted, and loses its first id."""

    name = "leaky"

    def __init__(self, tokenizer: HFTokenizer, drop: int = 0) -> None:
        self.inner = NanoRenderer(tokenizer)
        self.tokenizer = tokenizer
        self.stop_ids = self.inner.stop_ids
        self.demo = self.inner.demo
        self.write = self.inner.write
        self.closing = self.inner.closing
        self.is_prefix_stable = self.inner.is_prefix_stable
        self.prompt_ids = self.inner.prompt_ids
        self.drop = drop

    def delta(self, messages: Sequence[Message], *, ended: bool) -> tuple[Span, ...]:
        spans = self.inner.delta(messages, ended=ended)
        return spans[self.drop :]

    def inline(self, block: Inline) -> tuple[Span, ...]:
        ids: Int32Array = ids_array(self.tokenizer.encode_markup(block.text))
        return (Span(Origin.OBSERVATION, ids),)


def test_a_broken_renderer_is_found(nano_tokenizer: HFTokenizer) -> None:
    findings = {f.check: f for f in check_template(Leaky(nano_tokenizer))}
    assert not findings["neutralised"].ok
    assert "became 14 control tokens" in findings["neutralised"].detail
    assert findings["prefix"].ok
    assert not check_template(Leaky(nano_tokenizer, drop=1))[1].ok
    with pytest.raises(UserError, match="'leaky' does not fit this tokenizer"):
        renderer_for(nano_tokenizer, "mine", known={"mine": Leaky})


def test_a_family_that_nobody_knows(qwen3_tokenizer: HFTokenizer) -> None:
    class Bare:
        vocab_size = 3
        encode = encode_markup = decode = None

        def special_id(self, token: str) -> int | None:
            return None

    with pytest.raises(
        UserError, match=r"no known chat family; set model\.renderer to one of nano"
    ):
        renderer_for(Bare())  # type: ignore[arg-type]
    assert qwen3(qwen3_tokenizer).name == "qwen3"
