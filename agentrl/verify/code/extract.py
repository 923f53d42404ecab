"""Finding the code in a model's text."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = ("", "python", "python3", "py")


def extract_code(text: str, entry_point: str | None = None) -> str:
    """The last fenced Python block, else the whole text, which may be a bare completion.

    Of several blocks the last one that defines `entry_point` counts; a block of usage examples
    often follows the solution. A fence that never closes runs to the end.
    """
    blocks = [
        match.group(2)
        for match in _FENCE.finditer(text)
        if match.group(1).strip().lower().partition(" ")[0] in _PYTHON
    ]
    if entry_point is not None:
        name = re.escape(entry_point.partition(".")[0])
        defining = [
            b for b in blocks if re.search(rf"^(?:async\s+def|def|class)\s+{name}\b", b, re.M)
        ]
        blocks = defining or blocks
    return blocks[-1] if blocks else text


__all__ = ["extract_code"]
