"""What the policy wrote, as text and as tokens: the views that reward rules read.

Only the policy's own turns count. A prompt that shows an example answer can neither answer nor
break the format for the model (Search-R1's released reward decodes the prompt too and therefore
wants two answer tags).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agentrl.chat.base import Tokenizer
from agentrl.chat.protocols.text import split_thinking
from agentrl.trajectory import Trajectory
from agentrl.transcript import SAMPLED, Int32Array, Origin, ids_array
from agentrl.types import Message

WINDOW = 4
"""Tokens of left context when one token's characters are counted: a code point has four bytes."""


class Run(NamedTuple):
    """A stretch of tokens the policy wrote without interruption: one turn of one row."""

    row: int
    start: int
    """Index of its first token in the row."""
    offset: int
    """Index of its first token in the trajectory's joined rows."""
    token_ids: Int32Array
    """Shape [t]."""


def turn_texts(trajectory: Trajectory) -> list[str]:
    """The policy's turns; assistant messages of the prompt (examples) are not among them."""
    said = [m.content for m in trajectory.messages if m.role == "assistant"]
    return said[len(said) - trajectory.n_turns :] if trajectory.n_turns else []


def first_text(trajectory: Trajectory) -> str:
    """The first turn, "" when there is none."""
    return next(iter(turn_texts(trajectory)), "")


def final_text(trajectory: Trajectory) -> str:
    """The last turn, "" when there is none."""
    return next(reversed(turn_texts(trajectory)), "")


def response_messages(trajectory: Trajectory) -> tuple[Message, ...]:
    """The conversation from the policy's first turn on."""
    places = [i for i, m in enumerate(trajectory.messages) if m.role == "assistant"]
    if not trajectory.n_turns or not places:
        return ()
    return trajectory.messages[places[max(0, len(places) - trajectory.n_turns)] :]


def response_text(trajectory: Trajectory, before: str = "", after: str = "") -> str:
    """The response as one string, each observation wrapped in `before` and `after`."""
    return "".join(
        m.content if m.role == "assistant" else f"{before}{m.content}{after}"
        for m in response_messages(trajectory)
    )


def thinking(trajectory: Trajectory) -> str:
    """What the policy thought, all turns: the marked thinking, or the whole text without marks."""
    parts = [(split_thinking(text), text) for text in turn_texts(trajectory)]
    return "\n".join(text if p.reasoning is None else p.reasoning for p, text in parts)


def spoken(trajectory: Trajectory) -> str:
    """The last turn without its thinking."""
    split = split_thinking(final_text(trajectory))
    return "" if split.open else split.rest


def runs(trajectory: Trajectory) -> list[Run]:
    """Every stretch of sampled tokens, in order."""
    found: list[Run] = []
    offset = 0
    for index, row in enumerate(trajectory.rows):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.mask, [0]]).astype(np.int8)))
        ids = row.token_ids
        for start, end in edges.reshape(-1, 2).tolist():
            found.append(Run(index, start, offset + start, ids_array(ids[start:end])))
        offset += len(row)
    return found


def turn_ends(trajectory: Trajectory) -> list[int]:
    """Per turn, the index of its last sampled token in the joined rows.

    Turns are parted by observations and by rows; glue inside a generation parts nothing.
    """
    ends: list[int] = []
    offset = 0
    for row in trajectory.rows:
        open_turn = False
        for segment in row.segments:
            offset += len(segment)
            if segment.origin in SAMPLED:
                ends = [*(ends[:-1] if open_turn else ends), offset - 1]
                open_turn = True
            elif segment.origin is Origin.OBSERVATION:
                open_turn = False
    return ends


def sampled_ids(trajectory: Trajectory) -> Int32Array:
    """All tokens the policy wrote, joined, shape [|y|]."""
    ids: list[int] = [token for run in runs(trajectory) for token in run.token_ids.tolist()]
    return ids_array(ids)


def char_ends(tokenizer: Tokenizer, token_ids: Int32Array) -> Int32Array:
    """Per token [t], how many characters of the decoded text lie before its end.

    Each token is decoded with a few before it, so that code points which span tokens and
    tokenizers that strip leading blanks come out right at a cost linear in t.
    """
    widths: list[int] = []
    for i in range(len(token_ids)):
        start = max(0, i - WINDOW)
        before = len(tokenizer.decode(token_ids[start:i])) if i > start else 0
        widths.append(len(tokenizer.decode(token_ids[start : i + 1])) - before)
    ends = np.cumsum(np.array(widths, np.int64))
    # A token that ends inside a code point shows a replacement character that its successor takes back.
    return ids_array(np.minimum.accumulate(ends[::-1])[::-1].clip(min=0))


__all__ = [
    "Run",
    "char_ends",
    "final_text",
    "first_text",
    "response_messages",
    "response_text",
    "runs",
    "sampled_ids",
    "spoken",
    "thinking",
    "turn_ends",
    "turn_texts",
]
