"""Passages as the model reads them, within a budget of characters."""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.retrieval import Hit
from agentrl_tools.clip import GAP, Clipped

NOTHING = "Nothing was found; try other words."


def shown(hits: Sequence[Hit], max_chars: int) -> Clipped:
    """`Doc 1(Title: "Paris") Paris is ...`, one line a passage, best first.

    Search-R1's `_passages2string` (arXiv:2503.09516, its code): the title is the first line of
    `contents`, quotes included. Too long together, the longest texts lose their ends, and all stay.
    """
    if not hits:
        return Clipped(NOTHING, False)
    heads = [_head(number, hit) for number, hit in enumerate(hits, 1)]
    texts = [hit.passage.text for hit in hits]
    around = sum(map(len, heads)) + len(hits) - 1
    shares = fair_shares([len(text) for text in texts], max_chars - around)
    cut = [_cut(text, share) for text, share in zip(texts, shares, strict=True)]
    whole = "\n".join(head + text for head, text in zip(heads, cut, strict=True))
    return Clipped(whole[: max(max_chars, 0)], cut != texts or len(whole) > max_chars)


def _head(number: int, hit: Hit) -> str:
    title = hit.passage.title
    return f'Doc {number}(Title: "{title}") ' if title else f"Doc {number} "


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return text[: most - len(GAP)] + GAP if most > len(GAP) else text[:most]


def fair_shares(sizes: Sequence[int], budget: int) -> list[int]:
    """What each may use of a budget: all it needs up to a common bound, which uses the budget up.

    Sizes 10, 100, 70 at a budget of 120 become 10, 55, 55.
    """
    shares = [0] * len(sizes)
    left = max(budget, 0)
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for place, i in enumerate(order):
        shares[i] = min(sizes[i], left // (len(order) - place))
        left -= shares[i]
    return shares


__all__ = ["NOTHING", "fair_shares", "shown"]
