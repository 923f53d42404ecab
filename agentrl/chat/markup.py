"""Tags, and how pieces of trusted and untrusted text become ids together.

Adjacent plain text is encoded in one go, whoever wrote it, because byte-pair encoding merges across
the seam (`user\\n` + `\\nHi` holds one `\\n\\n`) and the published templates encode it so. Only the
template places control tokens, and only trusted text may hold tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from agentrl.chat.base import Tokenizer
from agentrl.tool import Tool
from agentrl.types import JsonValue, Message, ToolCall

TAG_NAMES = (
    "think",
    "tool_call",
    "tool_response",
    "code",
    "interpreter",
    "answer",
    "search",
    "information",
)
"""Names of the tags that models write in their own text, where a vocabulary has ids for them."""

TAGS = tuple(tag for name in TAG_NAMES for tag in (f"<{name}>", f"</{name}>"))

TAG_PATTERN = re.compile(f"({'|'.join(map(re.escape, TAGS))})")


class Kind(Enum):
    """What a piece may become."""

    CONTROL = "control"
    """One control token, named by the text."""
    TRUSTED = "trusted"
    """Characters, and tags where the vocabulary has them."""
    WORLD = "world"
    """Characters only."""


class Piece(NamedTuple):
    """Some text and what it may become."""

    kind: Kind
    text: str


def control(token: str) -> Piece:
    """A control token."""
    return Piece(Kind.CONTROL, token)


def trusted(text: str) -> Piece:
    """Template text, or the model's own."""
    return Piece(Kind.TRUSTED, text)


def world(text: str) -> Piece:
    """Text of a user, a tool or a tool's description."""
    return Piece(Kind.WORLD, text)


def assemble(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> list[int]:
    """Ids of the pieces in order. Raises KeyError for a control token the vocabulary lacks."""
    ids: list[int] = []
    plain: list[str] = []
    for kind, text in _split(pieces):
        token_id = None if kind is Kind.WORLD else tokenizer.special_id(text)
        if token_id is None and kind is Kind.CONTROL:
            raise KeyError(text)
        if token_id is None:
            plain.append(text)
            continue
        ids.extend(tokenizer.encode("".join(plain)) if plain else ())
        ids.append(token_id)
        plain = []
    return ids + (tokenizer.encode("".join(plain)) if plain else [])


def _split(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """Trusted text apart into tags, still TRUSTED, and what is between them, as WORLD."""
    for piece in pieces:
        if piece.kind is not Kind.TRUSTED:
            yield piece
            continue
        for i, part in enumerate(TAG_PATTERN.split(piece.text)):
            yield Piece(Kind.TRUSTED if i % 2 else Kind.WORLD, part)


def with_system(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """`messages` with `text` at the end of their system message, which is made if there is none."""
    if messages and messages[0].role == "system":
        first = messages[0]
        return (replace(first, content=f"{first.content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def to_json(value: JsonValue, indent: int | None = None) -> str:
    """JSON as the published templates' `tojson` writes it: Unicode kept, keys in their order."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def tool_spec(tool: Tool) -> dict[str, JsonValue]:
    """A tool in the form that chat templates describe."""
    function: dict[str, JsonValue] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.schema,
    }
    return {"type": "function", "function": function}


def call_block(call: ToolCall) -> str:
    """A call as Hermes-style models write it."""
    arguments = to_json(call.arguments)
    return f'<tool_call>\n{{"name": "{call.name}", "arguments": {arguments}}}\n</tool_call>'


__all__ = [
    "TAGS",
    "Kind",
    "Piece",
    "assemble",
    "call_block",
    "control",
    "to_json",
    "tool_spec",
    "trusted",
    "with_system",
    "world",
]
