"""BM25 over a few hundred short texts (Robertson and Zaragoza 2009, equation 3.15)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

K1, B = 1.2, 0.75
_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and marks, in lower case."""
    return _WORD.findall(text.lower())


def bm25(query: str, texts: Sequence[str]) -> list[float]:
    """One score per text: sum over the query's distinct words of
    ln(1 + (N - df + .5) / (df + .5)) tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))."""
    counted = [Counter(words(text)) for text in texts]
    lengths = [counts.total() for counts in counted]
    mean = fmean(lengths) if lengths else 0.0
    scores = [0.0] * len(texts)
    for word in sorted(set(words(query))):
        df = sum(word in counts for counts in counted)
        idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        for i, counts in enumerate(counted):
            tf = counts[word]
            if tf:
                scores[i] += idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * lengths[i] / mean))
    return scores


__all__ = ["bm25", "words"]
