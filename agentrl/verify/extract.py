r"""Finding the final answer in a model's text.

Three marks are known: the last closed `\boxed{...}` (MATH), the last `<answer>...</answer>`
(Search-R1) and the last `#### x` (GSM8K). Every function makes one pass over the text, so a
hostile megabyte costs a fraction of a second. Pass the model's own text only: a prompt that shows
an example answer would otherwise answer for the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

AnswerMark = Literal["boxed", "answer", "gsm8k"]
"""Which mark carries the answer: `\\boxed{x}`, `<answer>x</answer>` or `#### x`."""

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_OPEN_TAG, _CLOSE_TAG = "<answer>", "</answer>"
_HASHES = "####"


def last_boxed(text: str) -> str | None:
    r"""Content of the last closed `\boxed{...}` (or `\fbox`), braces matched; None without one.

    Of nested boxes the outermost counts; a box that never closes is no answer. `\{` and `\}` are
    characters, not braces.
    """
    opened: list[int] = []
    boxed: list[bool] = []
    found: tuple[int, int] | None = None
    for match in _BOX_OR_BRACE.finditer(text):
        piece = match.group()
        if piece == "}":
            if opened:
                start = opened.pop()
                if boxed.pop():
                    found = (start, match.start())
        elif piece == "{" or (piece.endswith("{") and len(piece) > 2):
            opened.append(match.end())
            boxed.append(piece != "{")
    return text[found[0] : found[1]].strip() if found else None


def last_answer_tag(text: str) -> str | None:
    """Content of the last `<answer>...</answer>` pair, stripped; None without a closed pair."""
    end = text.rfind(_CLOSE_TAG)
    start = text.rfind(_OPEN_TAG, 0, end) if end >= 0 else -1
    return text[start + len(_OPEN_TAG) : end].strip() if start >= 0 else None


def last_hashes(text: str) -> str | None:
    """The rest of the line after the last `####` (GSM8K's final line); None when it is empty."""
    at = text.rfind(_HASHES)
    if at < 0:
        return None
    line = text[at + len(_HASHES) :].lstrip().split("\n", 1)[0]
    return line.strip() or None


_FINDERS: Mapping[AnswerMark, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "answer": last_answer_tag,
    "gsm8k": last_hashes,
}


def extract_answer(
    text: str, marks: Sequence[AnswerMark] = ("boxed", "answer", "gsm8k")
) -> str | None:
    r"""The final answer in `text` by the first of `marks` that occurs in it, else None.

    None means the model gave no answer, which is not an empty answer: `\boxed{}` gives "". An
    answer tag that holds a box gives the box's content.
    """
    for mark in marks:
        found = _FINDERS[mark](text)
        if found is not None:
            inner = last_boxed(found) if mark != "boxed" else None
            return found if inner is None else inner
    return None
