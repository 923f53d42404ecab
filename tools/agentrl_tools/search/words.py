"""The words of a query."""

from __future__ import annotations

import re
import unicodedata

MOST_WORDS = 128
"""Distinct words of one query that count; a model may write pages."""
_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Every run of letters and digits, lower-cased, in order, repeated ones repeated.

    Composed first (NFC), so that an accent written as a character of its own does not cut a word in
    two. Quotes, operators, emoji, control characters and broken surrogates belong to no word.
    """
    return [word.lower() for word in _WORD.findall(unicodedata.normalize("NFC", text))]


def query_words(query: str) -> list[str]:
    """The first `MOST_WORDS` distinct words of a query, in order; empty for a query without any."""
    return list(dict.fromkeys(words_of(query)))[:MOST_WORDS]


def utf8(text: str) -> str:
    """The text with `?` for broken surrogates, which models write and others' servers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


__all__ = ["MOST_WORDS", "query_words", "utf8", "words_of"]
