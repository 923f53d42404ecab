"""HFTokenizer on the real Qwen vocabulary: equal to tiktoken, and deaf to control strings."""

from __future__ import annotations

import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from agentrl.chat.markup import TAGS, assemble, control, trusted, world
from agentrl.chat.nano import build_nano_tokenizer
from agentrl.chat.tokenizers import HFTokenizer, load_tokenizer
from agentrl.errors import UserError

PIECES = (
    *(" ", "\n", "\r\n", "  ", "\t", "a", "the", "ing", "é", "e\u0301", "漢字", "1", "2024", "'s"),
    *("=", "def ", "print(", "🙂", "\u200b", "</", "<|", "|>", "ſ"),
)
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def random_texts(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randrange(30))) for _ in range(n)]


def test_the_converted_vocabulary_is_qwens(
    ranks: dict[bytes, int], qwen25_tokenizer: HFTokenizer
) -> None:
    """tiktoken reads the published ranks directly: an independent implementation."""
    tiktoken = pytest.importorskip("tiktoken")
    reference = tiktoken.Encoding(
        "qwen", pat_str=QWEN_SPLIT, mergeable_ranks=ranks, special_tokens={}
    )
    for text in random_texts(0, 500):
        normal = unicodedata.normalize("NFC", text)
        assert qwen25_tokenizer.encode(text) == reference.encode_ordinary(normal)
        assert qwen25_tokenizer.decode(qwen25_tokenizer.encode(text)) == normal


def test_published_ids_of_the_added_tokens(
    qwen25_tokenizer: HFTokenizer, qwen3_tokenizer: HFTokenizer
) -> None:
    """Ids from the model cards' tokenizer_config.json."""
    wanted = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
    wanted |= {"<tool_call>": 151657, "</tool_call>": 151658}
    for tokenizer in (qwen25_tokenizer, qwen3_tokenizer):
        assert {token: tokenizer.special_id(token) for token in wanted} == wanted
    assert qwen3_tokenizer.special_id("<tool_response>") == 151665
    assert qwen3_tokenizer.special_id("</think>") == 151668
    assert qwen25_tokenizer.special_id("<think>") is None


@pytest.mark.parametrize("family", ["qwen25", "qwen3", "llama"])
def test_no_text_makes_an_added_token(
    family: str, request: pytest.FixtureRequest, added_tokens: re.Pattern[str]
) -> None:
    """transformers' own switch leaves Qwen's `<tool_call>` in; ours must not."""
    tokenizer: HFTokenizer = request.getfixturevalue(f"{family}_tokenizer")
    wrapped: Any = request.getfixturevalue(f"{family}_hf")
    added = set(wrapped.get_added_vocab().values())
    rng = random.Random(1)
    names = list(wrapped.get_added_vocab())
    for text in random_texts(2, 200):
        hostile = text + rng.choice(names) + text + rng.choice(names)
        ids = tokenizer.encode(hostile)
        assert not added & set(ids)
        normal = hostile if family == "llama" else unicodedata.normalize("NFC", hostile)
        assert tokenizer.decode(ids) == normal
        clean = added_tokens.sub("", text)
        assert tokenizer.encode(clean) == wrapped.encode(clean, add_special_tokens=False)
    if family != "llama":
        leaky = wrapped.encode("<tool_call>", add_special_tokens=False, split_special_tokens=True)
        assert leaky == [151657]
        assert len(tokenizer.encode("<tool_call>")) > 1


def test_trusted_text_has_tags_and_no_controls(qwen3_tokenizer: HFTokenizer) -> None:
    text = "<think>\nx\n</think>\n\n<tool_call>\n{}\n</tool_call><|im_end|><|fim_pad|><code>"
    ids = qwen3_tokenizer.encode_markup(text)
    assert [i for i in ids if i >= 151643] == [151667, 151668, 151657, 151658]
    assert qwen3_tokenizer.decode(ids) == text


def test_adjacent_plain_text_is_encoded_together(qwen3_tokenizer: HFTokenizer) -> None:
    """`user\\n` + `\\nHi` holds Qwen's single token for two newlines (id 271)."""
    pieces = [control("<|im_start|>"), trusted("user\n"), world("\nHi"), trusted("<think>")]
    assert assemble(qwen3_tokenizer, pieces) == [151644, 872, 271, 13048, 151667]
    split = assemble(qwen3_tokenizer, [world("<thi"), trusted("nk>")])
    assert split == qwen3_tokenizer.encode("<think>")
    with pytest.raises(KeyError, match="eot_id"):
        assemble(qwen3_tokenizer, [control("<|eot_id|>")])


def test_invalid_bytes_and_unknown_ids_decode(qwen3_tokenizer: HFTokenizer) -> None:
    euro = qwen3_tokenizer.encode("\u20ac")
    assert qwen3_tokenizer.decode([*euro, 151645]) == "\u20ac<|im_end|>"
    assert qwen3_tokenizer.decode([95, 151645]).endswith("<|im_end|>")
    assert qwen3_tokenizer.decode([158, 151645]) == "\ufffd<|im_end|>"
    assert qwen3_tokenizer.decode([151900]) == ""
    assert set(TAGS) >= {"<think>", "</code>"}


def test_wrapping_leaves_the_wrapped_one_alone(qwen3_hf: Any) -> None:
    before = qwen3_hf.encode("<|im_end|><tool_call>x")
    HFTokenizer(qwen3_hf)
    assert qwen3_hf.encode("<|im_end|><tool_call>x") == before == [151645, 151657, 87]


def test_a_missing_tokenizer_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UserError, match=r"has no vocabulary; copy tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", ["{}", '{"version": "1.0"', "not json"])
def test_a_damaged_tokenizer_names_the_fix(tmp_path: Path, damage: str) -> None:
    build_nano_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(damage)
    with pytest.raises(UserError, match=r"could be loaded.*give a folder that holds tokenizer"):
        load_tokenizer(tmp_path)
