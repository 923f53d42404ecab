"""What the two sides of grading inside sandbox sessions share; loaded there as source.

Replies that get through a session's output limit, and the modules that code is run in. Imports the
standard library alone.
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any

PART_CHARS = 12_000
"""Characters of one reply; longer ones are fetched in parts."""
MAX_CHARS = 2_000_000
"""Of one value as JSON."""
_MESSAGE_CHARS = 500
_dumps = json.dumps


class Text(str):
    """A string that the interpreter echoes as it is."""

    def __repr__(self) -> str:
        return str(self)


CANARY = Text("x" * PART_CHARS)
"""What a session must be able to echo in full."""


class Mailbox:
    """Replies, cut into parts that a session's output limit lets through."""

    def __init__(self) -> None:
        self._text = ""

    def post(self, nonce: str, **content: Any) -> Text:
        """The reply, or a note on how many parts it has."""
        self._text = _dumps({"nonce": nonce, **content})
        if len(self._text) > MAX_CHARS:
            self._text = _dumps({"nonce": nonce, "unsaid": "a value too large to be told"})
        if len(self._text) <= PART_CHARS:
            return Text(self._text)
        return Text(_dumps({"nonce": nonce, "parts": -(-len(self._text) // PART_CHARS)}))

    def part(self, index: int) -> Text:
        """One part of the last reply."""
        return Text(self._text[index * PART_CHARS : (index + 1) * PART_CHARS])


def message_of(error: BaseException) -> str:
    """Kind and text of an exception, cut to what a grade can quote."""
    try:
        return f"{type(error).__name__}: {error}"[:_MESSAGE_CHARS]
    except BaseException:  # noqa: BLE001 - the exception's own __str__ is model code
        return type(error).__name__


def fresh_module(name: str) -> types.ModuleType:
    """A module that classes defined in it can be looked up in."""
    module = sys.modules[name] = types.ModuleType(name)
    return module


def run_helpers(prompt: str, namespace: dict[str, Any]) -> None:
    """Run a prompt where it is Python."""
    try:
        helpers = compile(prompt, "prompt.py", "exec")
    except (SyntaxError, ValueError):
        return
    exec(helpers, namespace)


__all__ = [
    "CANARY",
    "MAX_CHARS",
    "PART_CHARS",
    "Mailbox",
    "Text",
    "fresh_module",
    "message_of",
    "run_helpers",
]
