"""The tiny model's own format: bytes, one id per tag, no glue.

    <|system|>text<|end|><|user|>text<|end|><|assistant|> ... <|end|><|tool|>text<|end|>

Byte b has id b; control tokens and tags follow. There are no merges, so nothing depends on a
pre-tokenizer; text is NFC-normalised as in every Qwen tokenizer, because transformers loads
`model_type: qwen2` folders through its own Qwen2Tokenizer whatever the saved file says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentrl.chat.base import Inline, Span, Tokenizer
from agentrl.chat.markup import call_block, with_system
from agentrl.errors import UserError
from agentrl.tool import Tool
from agentrl.transcript import Int32Array, Origin, ids_array
from agentrl.types import JsonValue, Message

CONTROLS = ("<pad>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>", "<|tool|>")
"""Ids 256 ... 261."""

NANO_TAGS = (
    "<think>",
    "</think>",
    "<code>",
    "</code>",
    "<interpreter>",
    "</interpreter>",
    "<answer>",
    "</answer>",
    "<tool_call>",
    "</tool_call>",
    "<search>",
    "</search>",
    "<information>",
    "</information>",
)
"""Ids 262 ... 275, written by the model."""

RESERVED = tuple(f"<|reserved_{i}|>" for i in range(12))
"""Ids 276 ... 287, for later use without a new embedding table."""

VOCAB_SIZE = 288


class NanoRenderer:
    """Renders the `nano` format."""

    name = "nano"

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises UserError when `tokenizer` lacks one of the format's tokens."""
        self.tokenizer = tokenizer
        self._ids: dict[str, int] = {}
        for token in CONTROLS:
            token_id = tokenizer.special_id(token)
            if token_id is None:
                raise UserError(
                    f"the nano format needs the token {token}; "
                    "make the tokenizer with `build_nano_tokenizer` or choose another renderer"
                )
            self._ids[token] = token_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`<|end|>` alone."""
        return (self._ids["<|end|>"],)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Int32Array:
        """All messages, then `<|assistant|>`. Of `tools` the system message names only the names."""
        if tools:
            messages = with_system(messages, f"Tools: {', '.join(tool.name for tool in tools)}")
        ids = [token_id for message in messages for token_id in self._message(message)]
        return ids_array([*ids, self._ids["<|assistant|>"]])

    def demo(self, text: str, *, ended: bool = False) -> Int32Array:
        """Bytes and tags of the model's own text, then `<|end|>` if `ended`."""
        return ids_array([*self.tokenizer.encode_markup(text), *(self.stop_ids if ended else ())])

    def write(self, message: Message) -> str:
        """Thinking, content and calls of an assistant message, as the model writes them."""
        thought = "" if message.reasoning is None else f"<think>{message.reasoning}</think>"
        return thought + message.content + "".join(map(call_block, message.tool_calls))

    def delta(self, messages: Sequence[Message], *, ended: bool) -> tuple[Span, ...]:
        """Closer if needed, the messages, and `<|assistant|>`."""
        ids = [token_id for message in messages for token_id in self._message(message)]
        return (
            *self.closing(ended=ended),
            Span(Origin.OBSERVATION, ids_array(ids)),
            Span(Origin.SCAFFOLD, ids_array([self._ids["<|assistant|>"]])),
        )

    def inline(self, block: Inline) -> tuple[Span, ...]:
        """The block, its content as plain bytes."""
        ids = [
            *self.tokenizer.encode_markup(block.before),
            *self.tokenizer.encode(block.content),
            *self.tokenizer.encode_markup(block.after),
        ]
        return (Span(Origin.OBSERVATION, ids_array(ids)),)

    def closing(self, *, ended: bool) -> tuple[Span, ...]:
        """`<|end|>` unless the model wrote it."""
        return () if ended else (Span(Origin.SCAFFOLD, ids_array(self.stop_ids)),)

    def is_prefix_stable(self, messages: Sequence[Message]) -> bool:
        """Always: every message is rendered alone."""
        return True

    def _message(self, message: Message) -> list[int]:
        if message.role == "assistant":
            text = self.tokenizer.encode_markup(self.write(message))
        else:
            text = self.tokenizer.encode(message.content)
        return [self._ids[f"<|{message.role}|>"], *text, *self.stop_ids]


def build_nano_tokenizer(folder: str | Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of the nano format into `folder`.

    Tags are ordinary added tokens and only controls are special, so that an engine that hides
    special tokens from its text still finds the stop string `</code>`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    controls = {*CONTROLS, *RESERVED}
    added: list[Mapping[str, JsonValue]] = [
        {
            "id": 256 + i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token in controls,
        }
        for i, token in enumerate((*CONTROLS, *NANO_TAGS, *RESERVED))
    ]
    _write(folder / "tokenizer.json", _tokenizer_json(added))
    _write(folder / "tokenizer_config.json", _tokenizer_config(added))


def _tokenizer_json(added: Sequence[Mapping[str, JsonValue]]) -> Mapping[str, JsonValue]:
    byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", **byte_level},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **byte_level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {character: byte for byte, character in enumerate(byte_alphabet())},
            "merges": [],
        },
    }


def _tokenizer_config(added: Sequence[Mapping[str, JsonValue]]) -> Mapping[str, JsonValue]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in added
        },
        "bos_token": None,
        "eos_token": "<|end|>",
        "pad_token": "<pad>",
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }


def byte_alphabet() -> list[str]:
    """The printable character that byte-level BPE writes for each byte, in byte order.

    Printable Latin-1 bytes stand for themselves; the others, in order, take U+0100 upwards.
    """
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in own else chr(next(others)) for byte in range(256)]


def _write(path: Path, value: Mapping[str, JsonValue]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


__all__ = ["CONTROLS", "NANO_TAGS", "VOCAB_SIZE", "NanoRenderer", "build_nano_tokenizer"]
