"""Stop strings, matched on what the sampled ids decode to, ids themselves never re-encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decodes(Protocol):
    """The one thing matching needs of a tokenizer."""

    def decode(self, token_ids: Sequence[int], /) -> str:
        """Text of ids; bytes of an unfinished character become U+FFFD."""
        ...


UNFINISHED = "\ufffd"


class StopMatcher:
    """Tells whether the newest token completed one of some stop strings.

    Most tokens cannot: a string is complete only at a token that holds its last character, and
    which tokens do is remembered per id. Only for the others is a tail of the ids decoded.
    """

    def __init__(self, tokenizer: Decodes, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s)
        self._longest = max((len(s) for s in self._stop), default=0)
        self._last = {s[-1] for s in self._stop}
        self._always = any(c.isspace() for c in self._last)
        """A tokenizer may strip a lone token's spaces, so spaces are looked for in context."""
        self._may_end: dict[int, bool] = {}

    def found(self, token_ids: Sequence[int]) -> str | None:
        """The stop string that the last of the generated ids completed, the earliest in the text."""
        newest = token_ids[-1]
        if newest not in self._may_end:
            self._may_end[newest] = self._ends_something(newest)
        if not self._may_end[newest]:
            return None
        text = self._tail(token_ids)
        places = [(text.find(s), s) for s in self._stop if s in text]
        return min(places)[1] if places else None

    def _ends_something(self, token_id: int) -> bool:
        text = self._tokenizer.decode([token_id])
        return self._always or UNFINISHED in text or any(c in text for c in self._last)

    def _tail(self, token_ids: Sequence[int]) -> str:
        """Decoded end of the ids that holds the newest token and the longest stop before it.

        The newest token's own text is added to the length demanded: it may go on after the stop.
        """
        needed = self._longest + len(self._tokenizer.decode([token_ids[-1]])) + 4
        n = needed
        while True:
            text = self._tokenizer.decode(list(token_ids[-n:]))
            if len(text) >= needed or n >= len(token_ids):
                return text
            n *= 2
