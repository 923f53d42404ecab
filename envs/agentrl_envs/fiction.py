"""Invented names: nobody can know anything about them, and no name is in two splits."""

from __future__ import annotations

from random import Random

from agentrl_envs.families.base import Split, belongs

_SOUNDS = (
    "b br d dr f g gr h j k kl l m n p pl r s st t tr v w z",
    "a e i o u ae ei",
    "n r l s m k nd rt sh th x",
)
_STARTS, _VOWELS, _ENDS = (sounds.split() for sounds in _SOUNDS)


def invented(rng: Random, syllables: int = 2) -> str:
    """A name of some syllables, of either split."""
    parts = [rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(_ENDS)).capitalize()


def names(rng: Random, split: Split, n: int, syllables: int = 2) -> list[str]:
    """`n` different names that belong to `split` alone (`families.base.split_of`)."""
    found: dict[str, None] = {}
    while len(found) < n:
        name = invented(rng, syllables)
        if belongs(name, split):
            found[name] = None
    return list(found)
