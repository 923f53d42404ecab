"""Names of people who do not exist, one split each."""

from __future__ import annotations

from functools import cache
from itertools import product

from agentrl_envs.memory_qa.facts import Style
from agentrl_envs.memory_qa.story import split_of

_FIRST = (
    "Ba",
    "Ce",
    "Da",
    "Fe",
    "Ga",
    "Ho",
    "Ja",
    "Ki",
    "Lo",
    "Ma",
    "No",
    "Pe",
    "Ra",
    "So",
    "Ti",
    "Vi",
)
_LAST = ("bel", "dris", "fan", "gor", "lin", "mira", "nok", "rell", "sha", "tov", "vane", "zo")


@cache
def names_of(split: str, style: Style) -> tuple[str, ...]:
    """The people of a split: two letters in the terse style, two or three syllables otherwise."""
    letters = ("".join(pair) for pair in product("BCDFGHJKLMNPRSTVWZ", "aeiou"))
    syllables = ("".join(pair) for pair in product(_FIRST, _LAST))
    chosen = letters if style == "terse" else syllables
    return tuple(name for name in chosen if split_of(name) == split)


__all__ = ["names_of"]
