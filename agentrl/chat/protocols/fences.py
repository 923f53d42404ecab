"""Fenced code blocks in a model's text: finding them, and writing one."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPEN = re.compile(r"^(`{3,})[ \t]*([A-Za-z0-9_+-]*)[ \t]*$")


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block."""

    language: str
    """Lower case; empty when none is named."""
    code: str
    """Exactly the lines between the fences, joined, without a last newline."""
    closed: bool
    start: int
    """Offset of the opening fence in the text."""
    end: int
    """Offset just after the closing fence, or the text's length."""


def find_fences(text: str) -> list[Fence]:
    """All fenced blocks, in order. A fence opens at a line's start and is closed by one as long."""
    found: list[Fence] = []
    marks = ""
    language = ""
    start = position = 0
    inside: list[str] = []
    for line in text.split("\n"):
        end = position + len(line)
        if not marks:
            if match := _OPEN.match(line):
                marks, language, start, inside = match[1], match[2].lower(), position, []
        elif line.rstrip() == marks:
            found.append(Fence(language, "\n".join(inside), True, start, end))
            marks = ""
        else:
            inside.append(line)
        position = end + 1
    if marks:
        found.append(Fence(language, "\n".join(inside), False, start, len(text)))
    return found


def fenced(code: str, language: str = "python") -> str:
    """`code` in a fence longer than any that it contains."""
    longest = max((len(run) for run in re.findall(r"^`{3,}", code, re.MULTILINE)), default=2)
    marks = "`" * (longest + 1)
    return f"{marks}{language}\n{code}\n{marks}"


__all__ = ["Fence", "fenced", "find_fences"]
