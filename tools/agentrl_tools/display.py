"""What the Python tool's code shows besides text: figures in words, tables and arrays kept short.

Code that mentions none of the libraries costs one search of its text; the libraries themselves are
never imported by this. See `inside_show.py` for the far side.
"""

from __future__ import annotations

import re

from agentrl.sandbox import ExecResult, Sandbox
from agentrl_tools.inside import Inside, told

_TABLES = re.compile(r"\b(numpy|pandas|matplotlib|pylab|seaborn)\b")
_FIGURES = re.compile(r"\b(matplotlib|pylab|seaborn)\b|\.plot\b")
_ARTIST = re.compile(
    r"<matplotlib\.|\AText\(|\A<BarContainer|\A<Axes|\A\(array\(.*<BarContainer", re.DOTALL
)
LOST = "The figures could not be described; the interpreter restarted and variables are gone."
DESCRIBE_S = 5.0
"""Seconds that describing the figures may take."""


class Display:
    """One session's figures and tables."""

    def __init__(self) -> None:
        self._inside = Inside("show")
        self._shortens = False
        self._draws = False

    def copy(self) -> Display:
        """The same, for a copy of the session."""
        made = Display()
        made._shortens, made._draws = self._shortens, self._draws
        return made

    async def before(self, sandbox: Sandbox, code: str) -> None:
        """Before the first code that mentions such a library: shorten what it will write."""
        if not self._shortens and _TABLES.search(code):
            await self._inside.call(sandbox, "prepare", timeout_s=DESCRIBE_S)
            self._shortens = True
        self._draws = self._draws or bool(_FIGURES.search(code))

    async def after(self, sandbox: Sandbox, result: ExecResult) -> str:
        """New figures in words; empty without any, or when the interpreter is gone."""
        if result.state_lost:
            self._shortens = self._draws = False
        if not self._draws or result.status not in ("ok", "error"):
            return ""
        described = await self._inside.call(sandbox, "figures", timeout_s=DESCRIBE_S)
        text = told(described)
        if text is None:
            # Figures that cannot be described in time are not tried again before new ones are drawn.
            self._draws = False
        if described.state_lost:
            self._shortens = False
            return LOST
        return text or ""


def is_artist(value: str | None) -> bool:
    """Whether an echoed value is the name of a drawn thing, which says nothing that figures do not."""
    return value is not None and _ARTIST.search(value) is not None
