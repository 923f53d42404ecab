"""Which tools a server offers, from the command line's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from agentrl.config import Plugin
from agentrl.errors import UserError

_NODES = TypeAdapter(list[str | Plugin])


class Served(NamedTuple):
    """Words, sorted."""

    tools: tuple[Plugin | str, ...]
    rest: tuple[str, ...]
    """The configuration's: `sandbox=...`."""


def read_tool_words(words: Sequence[str]) -> Served:
    """Take `tools=python,calculator` or `tools=[{name: python, timeout_s: 3}]` out of the words.

    Raises UserError when there is none or it cannot be read.
    """
    given = [word.removeprefix("tools=") for word in words if word.startswith("tools=")]
    rest = tuple(word for word in words if not word.startswith("tools="))
    if not given or not given[-1].strip():
        raise UserError("say which tools to serve: tools=python, or tools=python,calculator")
    return Served(_nodes(given[-1].strip()), rest)


def _nodes(text: str) -> tuple[Plugin | str, ...]:
    if not text.startswith(("[", "{")):
        return tuple(name.strip() for name in text.split(",") if name.strip())
    try:
        found: object = yaml.safe_load(text)
        return tuple(_NODES.validate_python(found if isinstance(found, list) else [found]))
    except (yaml.YAMLError, ValidationError):
        raise UserError(
            f"tools={text} cannot be read; write tools=[{{name: python, timeout_s: 3}}, calculator]"
        ) from None


__all__ = ["Served", "read_tool_words"]
