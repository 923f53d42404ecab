"""Invented names: nothing a model has read elsewhere helps to answer.

Every name belongs to one split by a hash of its text, so the worlds of train and test share none.
"""

from __future__ import annotations

from random import Random

from agentrl_envs.families.base import Split, Style, split_of

_CONSONANTS, _VOWELS = "bdfgjklmnprstvz", "aeiou"


def invented(rng: Random, split: Split, syllables: int = 2) -> str:
    """A capitalised word of open syllables and a last consonant, such as `Mirod`."""
    while True:
        pairs = (rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(syllables))
        word = ("".join(pairs) + rng.choice(_CONSONANTS)).capitalize()
        if split_of(word) == split:
            return word


def unlike(rng: Random, split: Split, taken: set[str], style: Style) -> str:
    """An invented name that is not in `taken` yet; it is added there."""
    while True:
        word = invented(rng, split, 2 if style == "terse" else rng.choice((2, 3)))
        if word not in taken:
            taken.add(word)
            return word


__all__ = ["invented", "unlike"]
