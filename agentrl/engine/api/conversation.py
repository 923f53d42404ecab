"""A row read back as messages, for endpoints that take nothing else.

The row is cut at its control *ids*, so text that merely spells a control token stays text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentrl.chat.base import Renderer, Tokenizer
from agentrl.errors import UserError
from agentrl.transcript import Int32Array
from agentrl.types import Message, Role

ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "ipython": "user",
}
"""A tool's answer is told by the user: endpoints take tool messages for native calls only."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a row says."""

    messages: tuple[Message, ...]
    """Closed turns, the unfinished one not among them."""
    begun: str
    """What the assistant's unfinished turn holds so far, tool answers inside it included."""


def conversation_of(renderer: Renderer, token_ids: Int32Array) -> Conversation:
    """The messages of a row that ends in the assistant's unfinished turn.

    What a template itself opens such a turn with (an empty thought) is not part of it. Raises
    UserError for a template family that cannot be read back, or a row that does not end so.
    """
    turns = _read(renderer, token_ids.tolist())
    if not turns or turns[-1][0] != "assistant":
        raise UserError("a row for engine=api must end in the assistant's turn")
    opening = _read(renderer, renderer.prompt_ids((Message("user", "x"),)).tolist())[-1][1]
    closed = tuple(Message(ROLES.get(role, "user"), text) for role, text in turns[:-1])
    return Conversation(closed, turns[-1][1].removeprefix(opening))


def _read(renderer: Renderer, ids: Sequence[int]) -> list[tuple[str, str]]:
    """Role and text of each turn."""
    tokenizer = renderer.tokenizer
    if tokenizer.special_id("<|im_start|>") is not None:
        return _turns(tokenizer, ids, "<|im_start|>", "\n", "<|im_end|>")
    if tokenizer.special_id("<|start_header_id|>") is not None:
        return _turns(tokenizer, ids, "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>")
    if tokenizer.special_id("<|assistant|>") is not None:
        return _nano_turns(tokenizer, ids)
    raise UserError(
        f"engine=api cannot read rows of the renderer {renderer.name!r} back as messages; use "
        "engine.mode=completions, or a model of another template family"
    )


def _turns(
    tokenizer: Tokenizer, ids: Sequence[int], opens: str, after_role: str, closes: str
) -> list[tuple[str, str]]:
    """Role and text of each turn, where a control token, a role and a separator open one."""
    opening, closing = tokenizer.special_id(opens), tokenizer.special_id(closes)
    found: list[tuple[str, str]] = []
    for part in _split(ids, opening)[1:]:
        text = tokenizer.decode(part[: part.index(closing)] if closing in part else part)
        role, _, body = text.partition(after_role)
        found.append((role, body))
    return found


def _nano_turns(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, str]]:
    """The same for nano's format, where each role is a token of its own."""
    named = {tokenizer.special_id(f"<|{role}|>"): role for role in ROLES}
    closing = tokenizer.special_id("<|end|>")
    found: list[tuple[str, str]] = []
    start = 0
    for at, token_id in enumerate([*ids, None]):
        if at and (token_id is None or token_id in named) and ids[start] in named:
            part = [i for i in ids[start + 1 : at] if i != closing]
            found.append((named[ids[start]], tokenizer.decode(part)))
        start = at if token_id in named else start
    return found


def _split(ids: Sequence[int], at: int | None) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token_id in ids:
        if token_id == at:
            parts.append([])
        else:
            parts[-1].append(token_id)
    return parts


__all__ = ["Conversation", "conversation_of"]
