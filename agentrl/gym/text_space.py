"""A space of text over all of Unicode."""

from __future__ import annotations

from typing import final

import gymnasium

SURROGATES = range(0xD800, 0xE000)
LAST = 0x10FFFF


@final
class UnicodeText(gymnasium.Space[str]):
    """Every string of up to `max_length` characters that UTF-8 can write.

    Gymnasium's own Text space enumerates its characters and cannot hold all of Unicode.
    """

    def __init__(self, max_length: int = 1_000_000, *, seed: int | None = None) -> None:
        super().__init__(dtype=str, seed=seed)
        self.max_length = max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no fixed shape."""
        return False

    def sample(self, mask: object = None, probability: object = None) -> str:
        """Up to 64 characters, uniform over Unicode. Raises ValueError on a mask or probability."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText samples take no mask and no probability")
        n = int(self.np_random.integers(0, min(self.max_length, 64) + 1))
        points: list[int] = self.np_random.integers(0, LAST + 1 - len(SURROGATES), size=n).tolist()
        return "".join(chr(p if p < SURROGATES.start else p + len(SURROGATES)) for p in points)

    def contains(self, x: object) -> bool:
        """Whether `x` is such a string."""
        if not isinstance(x, str) or len(x) > self.max_length:
            return False
        return not any(ord(character) in SURROGATES for character in x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash(("UnicodeText", self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"
