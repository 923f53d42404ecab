"""What the answerer reads: an equal share of the memories for each speaker."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl_tools.memory import Entry, MemoryBank

_WORD = re.compile(r"\w+")


def for_answer(bank: MemoryBank, question: str, speakers: Sequence[str], *, k: int) -> list[Entry]:
    """At most `k` memories, best first within a speaker's share.

    Memory-R1 (arXiv:2508.19828) retrieves 60, 30 of each of two speakers. A memory belongs to the
    speakers it names; places that are left over go to the best of the others.
    """
    ranked = bank.related(question, k=max(k, len(bank)))
    share = max(1, k // max(1, len(speakers)))
    chosen: dict[int, Entry] = {}
    for speaker in speakers:
        theirs = [entry for entry in ranked if names(entry.text, speaker)]
        chosen.update((entry.id, entry) for entry in theirs[:share])
    rest = [entry for entry in ranked if entry.id not in chosen]
    return [*chosen.values(), *rest][:k]


def names(text: str, person: str) -> bool:
    """Whether a text names a person, as words of its own."""
    words, wanted = _WORD.findall(text.casefold()), _WORD.findall(person.casefold())
    n = len(wanted)
    return n > 0 and any(words[i : i + n] == wanted for i in range(len(words) - n + 1))


__all__ = ["for_answer", "names"]
