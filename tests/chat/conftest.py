"""Vocabularies: Qwen's real byte-pair ranks under Qwen and Llama control tokens, and nano."""

from __future__ import annotations

import base64
import importlib.util
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentrl.chat.nano import build_nano_tokenizer, byte_alphabet
from agentrl.chat.tokenizers import HFTokenizer, load_tokenizer

QWEN_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = tuple(
    f"<|{name}|>"
    for name in (
        *("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"),
        *("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
)
QWEN25_PLAIN = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
QWEN3_PLAIN = (*QWEN25_PLAIN, "<tool_response>", "</tool_response>", "<think>", "</think>")
LLAMA_CONTROLS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
)
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="session")
def ranks() -> dict[bytes, int]:
    """Qwen's published byte-pair ranks."""
    spec = importlib.util.find_spec("dashscope")
    if spec is None or spec.origin is None:
        pytest.skip("the real Qwen vocabulary comes with `pip install dashscope`")
    path = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
    lines = path.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


def last_merge(ranks: dict[bytes, int], token: bytes) -> tuple[bytes, bytes]:
    """The two parts that byte-pair encoding joins last to make `token`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = enumerate(a + b for a, b in pairwise(parts))
        _, i = min((ranks.get(pair, len(ranks)), i) for i, pair in joined)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


@pytest.fixture(scope="session")
def vocabulary(ranks: dict[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ranks as a byte-level vocabulary with merges."""
    alphabet = byte_alphabet()

    def text(token: bytes) -> str:
        return "".join(alphabet[byte] for byte in token)

    merges = [last_merge(ranks, token) for token in ranks if len(token) > 1]
    vocab = {text(token): rank for token, rank in ranks.items()}
    return vocab, [(text(a), text(b)) for a, b in merges]


@pytest.fixture(scope="session")
def published() -> Callable[[str], str]:
    """Published chat templates by name, from the trl wheel, which keeps them byte for byte."""

    def read(name: str) -> str:
        spec = importlib.util.find_spec("trl")
        if spec is None or spec.origin is None:
            pytest.skip("the published templates come with `pip install trl==1.16.0`")
        return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text()

    return read


def make_qwen(
    vocabulary: tuple[dict[str, int], list[tuple[str, str]]], plain: tuple[str, ...]
) -> Any:
    """A transformers Qwen2Tokenizer with the added tokens at their real ids."""
    from transformers import AddedToken, Qwen2Tokenizer

    vocab, merges = vocabulary
    tokenizer = Qwen2Tokenizer(vocab=dict(vocab), merges=list(merges))
    controls = [AddedToken(token, special=True) for token in (*QWEN_CONTROLS, *VISION)]
    tokenizer.add_tokens(controls, special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return tokenizer


@pytest.fixture(scope="session")
def qwen25_hf(vocabulary: Any) -> Any:
    return make_qwen(vocabulary, QWEN25_PLAIN)


@pytest.fixture(scope="session")
def qwen3_hf(vocabulary: Any) -> Any:
    return make_qwen(vocabulary, QWEN3_PLAIN)


@pytest.fixture(scope="session")
def llama_hf(vocabulary: Any) -> Any:
    """Llama 3's control tokens and splitting over Qwen's merges (its own are not public)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocab, merges = vocabulary
    backend = Tokenizer(BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in LLAMA_CONTROLS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )


@pytest.fixture(scope="session")
def qwen25_tokenizer(qwen25_hf: Any) -> HFTokenizer:
    return HFTokenizer(qwen25_hf)


@pytest.fixture(scope="session")
def qwen3_tokenizer(qwen3_hf: Any) -> HFTokenizer:
    return HFTokenizer(qwen3_hf)


@pytest.fixture(scope="session")
def llama_tokenizer(llama_hf: Any) -> HFTokenizer:
    return HFTokenizer(llama_hf)


@pytest.fixture(scope="session")
def nano_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    folder = tmp_path_factory.mktemp("nano_tokenizer")
    build_nano_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def added_tokens() -> re.Pattern[str]:
    """Matches any string that is an added token in one of the vocabularies."""
    names = (*QWEN_CONTROLS, *VISION, *QWEN3_PLAIN, *LLAMA_CONTROLS)
    return re.compile("|".join(map(re.escape, names)))
