"""Question-answering scores: exact match, containment and token F1.

Pure functions over short strings, in the convention of SQuAD (Rajpurkar et al. 2016, official
evaluation script) that Search-R1 (arXiv 2503.09516) rewards with. The prediction is the extracted
answer, never the whole response; `None` (no answer given) scores zero.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_text(text: str) -> str:
    """Lower-case, delete ASCII punctuation (not spaced), drop articles, squash white space.

    The order is Search-R1's: `squash_ws(drop_articles(drop_punct(lower(s))))`.
    """
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str | None, golds: Sequence[str] | str) -> bool:
    """EM: the normalised prediction equals one normalised gold."""
    if prediction is None:
        return False
    return normalise_text(prediction) in {normalise_text(gold) for gold in _golds(golds)}


def contains_match(prediction: str | None, golds: Sequence[str] | str) -> bool:
    """subEM: one normalised gold is a substring of the normalised prediction.

    A gold that normalises to nothing (such as the article "a") is not found inside every
    prediction; it must be equal.
    """
    if prediction is None:
        return False
    said = normalise_text(prediction)
    wanted = [normalise_text(gold) for gold in _golds(golds)]
    return any(gold in said if gold else not said for gold in wanted)


def token_f1(prediction: str | None, golds: Sequence[str] | str) -> float:
    """F1 of the multisets of normalised tokens, the best over all golds; in [0, 1].

    Two empty token lists agree (1.0); one empty list scores 0.0 (SQuAD 2.0's convention).
    """
    if prediction is None:
        return 0.0
    said = normalise_text(prediction).split()
    return max((_f1(said, normalise_text(gold).split()) for gold in _golds(golds)), default=0.0)


def _golds(golds: Sequence[str] | str) -> Sequence[str]:
    """A lone string is one gold, not a sequence of characters."""
    return [golds] if isinstance(golds, str) else golds


def _f1(said: list[str], gold: list[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    shared = (Counter(said) & Counter(gold)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
