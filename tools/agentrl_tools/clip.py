"""Cutting an observation to its budget."""

from __future__ import annotations

from typing import NamedTuple

GAP = "..."
"""Stands for what was left out."""


class Clipped(NamedTuple):
    """A text within its budget."""

    text: str
    truncated: bool


def clip_middle(text: str, max_chars: int) -> Clipped:
    """The first and last `max_chars // 2` characters around `...`, when `text` is longer.

    ReTool's rule (arXiv:2504.11536): 1000 characters at a budget of 400 become 200 + `...` + 200.
    The end of a traceback names the error, so the tail is never given up.
    """
    if len(text) <= max_chars:
        return Clipped(text, False)
    tail = max_chars // 2
    head = max_chars - tail
    return Clipped(text[:head] + GAP + text[len(text) - tail :], True)
