"""Rules that a stream watcher reads a growing thought by: loops, and reconsiderings that change nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST_PERIOD = 400
"""Characters of the longest unit whose repetition is looked for."""
_RETHINK = re.compile(
    r"(?:(?<=\n)|(?<=[.!?] ))(?=(?:But )?(?:[Ww]ait\b|Alternatively\b|Hmm\b|Actually\b|However\b|"
    r"Let me (?:re)?-?(?:check|verify|think)\b))"
)
_RESULT = re.compile(r"\\boxed\{([^{}]+)\}|(?:answer(?: is|:)|=)\s*\$?(-?\d+(?:[.,/]\d+)*)")


def looping(text: str, repeats: int, min_chars: int) -> bool:
    """Whether the text ends with one unit at least `repeats` times in a row, `min_chars` in all."""
    for period in range(1, min(LONGEST_PERIOD, len(text) // repeats) + 1):
        unit = text[-period:]
        needed = max(repeats, -(-min_chars // period))
        if text.endswith(unit * needed):
            return True
    return False


def thoughts(text: str) -> Sequence[str]:
    """The text, cut before each word that takes it up again (Wait, Alternatively, ...)."""
    return [part for part in _RETHINK.split(text) if part.strip()]


def result(thought: str) -> str | None:
    """What a thought arrives at: its last boxed or stated number; None when it states none."""
    found = list(_RESULT.finditer(thought))
    if not found:
        return None
    return (found[-1][1] or found[-1][2]).strip()


def reconsidered(text: str, agree: int) -> bool:
    """Whether the last `agree` whole thoughts all arrive at the same; the open one does not count."""
    whole = thoughts(text)[:-1][-agree:]
    results = {result(thought) for thought in whole}
    return len(whole) == agree and len(results) == 1 and results != {None}


__all__ = ["looping", "reconsidered", "result", "thoughts"]
