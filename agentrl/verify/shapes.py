r"""What an answer is made of: numbers with units, words, lists, tuples, intervals, matrices.

Second rung of the ladder: `shapes` cuts canonical tokens at brackets, commas and `\cup` and reads
each leaf. Nesting and length are bounded, so the work stays linear in the text; whatever has no
plain shape becomes `Opaque`, which equals only its own spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from agentrl.verify.leaves import Leaf, Opaque, is_wordy, leaf
from agentrl.verify.tokens import Token, join_thousands, names, spell

MAX_ITEMS = 64
"""Longest list, tuple or matrix that is compared item by item."""
MAX_NESTING = 12


@dataclass(frozen=True, slots=True)
class Many:
    """Several values: a bare list, a set, a tuple or an interval."""

    opening: str
    """`(`, `[`, `{` (a set) or "" (a list without brackets)."""
    closing: str
    items: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """A union of sets; the order does not matter."""

    parts: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A matrix; `rows` may be ragged, and then equals nothing well-formed."""

    rows: tuple[tuple[Shape, ...], ...]


Shape: TypeAlias = Leaf | Many | Union | Grid


@dataclass(frozen=True, slots=True)
class Named:
    """A shape and the name it was given: `x` in `x = 5` and in `x \\in [1,2]`, else ""."""

    name: str
    shape: Shape


_HERALDS = ("answer", "result", "solution", "value", "total")
_SEPARATORS = frozenset(("or", "and"))
_OPENERS = frozenset(("(", "[", "{", "\\{", r"\begin"))
_CLOSERS = frozenset((")", "]", "}", "\\}", r"\end"))
_NAME = re.compile(
    r"""\\?(?:angle|triangle|overline|vec|hat)?[ ]?\{?       # a decoration
        (?:[A-Za-z]|[A-Z]{2,4}|\\(?!frac|sqrt|text)[a-z]{1,8}) # a letter, points, a Greek letter
        \}?(?:_(?:\w|\{\w{1,9}\}))?'{0,3}
        (?:\([^()=]{1,20}\))?                                # an argument
      | \((?:[A-Za-z],){1,5}[A-Za-z]\)""",
    re.VERBOSE,
)
_MATRICES = frozenset(("pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "array"))
_SINGLE_LETTER_UNITS = names("m g s h l L N J W V A K C F")


def shapes(tokens: list[Token], *, lenient: bool) -> list[Named]:
    """All readings of an answer, the likeliest first.

    `1,234` without spaces is a number or a list. With `lenient` (the prediction's side) a letter
    after a number, `5 m`, is also read as a unit.
    """
    tokens = stated(tokens)
    readings = [tokens]
    joined = join_thousands(tokens, Token("sym", ","))
    if joined != tokens and not any(token.text in _OPENERS for token in tokens):
        readings.insert(0, joined)
    if lenient and len(tokens) > 1 and tokens[-1].text in _SINGLE_LETTER_UNITS:
        readings.append([*tokens[:-1], Token("text", tokens[-1].text)])
    return [_named(reading, 0) for reading in readings]


def stated(tokens: list[Token]) -> list[Token]:
    """Without closing punctuation and a lead-in such as "The final answer is" or "Answer:"."""
    return _without_phrase(_trimmed(tokens))


def _trimmed(tokens: list[Token]) -> list[Token]:
    """Without white space and closing punctuation at the ends."""
    start, end = 0, len(tokens)
    while start < end and tokens[start].kind == "space":
        start += 1
    while end > start and (tokens[end - 1].kind == "space" or tokens[end - 1].text in (*".,;:",)):
        end -= 1
    return tokens[start:end]


def _without_phrase(tokens: list[Token]) -> list[Token]:
    """Drop a lead-in; a colon needs a word such as "answer" before it, for `3:4` is a ratio."""
    heralded = False
    for i, token in enumerate(tokens[:16]):
        heralded |= any(word in token.text.lower() for word in _HERALDS)
        if i and (token.text in ("is", "are", "equals") or (heralded and token.text == ":")):
            rest = _trimmed(tokens[i + 1 :])
            return _trimmed(rest[1:]) if rest and rest[0].text == ":" else rest or tokens
        if token.kind == "text" and token.text.strip().lower().endswith((" is", " are", ":")):
            return _trimmed(tokens[i + 1 :]) or tokens
        if token.kind not in ("word", "text", "space"):
            break
    return tokens


def _split(tokens: list[Token], cut: Callable[[Token], bool]) -> list[list[Token]]:
    """Pieces between the tokens outside all brackets for which `cut` holds."""
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in _OPENERS) - (token.text in _CLOSERS)
        if depth == 0 and cut(token):
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [_trimmed(piece) for piece in pieces]


def _separates(token: Token) -> bool:
    if token.kind in ("word", "text"):
        return token.text.strip().lower() in _SEPARATORS
    return token.text in (",", ";")


def _named(tokens: list[Token], nesting: int) -> Named:
    """Take `x =` or `x \\in` off the front when the rest is one value or list."""
    sides = _split(tokens, lambda token: token.text in ("=", r"\in"))
    if len(sides) == 2 and all(sides) and _is_name(sides[0]):
        return Named(spell(sides[0]), _shape(sides[1], nesting))
    return Named("", _shape(tokens, nesting))


def _is_name(tokens: list[Token]) -> bool:
    """`x`, `f(x)`, `a_1`, `\\angle ABC`, `(x,y)`, words; not `2x`, `xy`, `x^2` or `x + y`."""
    if len(tokens) > 20:
        return False
    if all(token.kind in ("word", "text", "space") for token in tokens) and is_wordy(tokens):
        return True
    return _NAME.fullmatch(spell(tokens)) is not None


def _shape(tokens: list[Token], nesting: int) -> Shape:
    tokens = _trimmed(tokens)
    if nesting > MAX_NESTING or not tokens:
        return Opaque(spell(tokens))
    pieces = [piece for piece in _split(tokens, _separates) if piece]
    if len(pieces) > 1:
        return _many("", "", pieces, nesting)
    if len(pieces) == 1 and len(pieces[0]) < len(tokens):
        tokens = pieces[0]
    parts = _split(tokens, lambda token: token.text == r"\cup")
    if len(parts) > 1 and len(parts) <= MAX_ITEMS:
        return Union(tuple(_shape(part, nesting + 1) for part in parts))
    if any(token.text == "=" for token in tokens):
        return _equation(tokens, nesting)
    if _encloses(tokens):
        return _bracketed(tokens, nesting)
    return _leaf(tokens)


def _equation(tokens: list[Token], nesting: int) -> Shape:
    """An item `x = 1` of a list is its value; any other equation is opaque."""
    named = _named(tokens, nesting + 1) if nesting else None
    return named.shape if named is not None and named.name else Opaque(spell(tokens))


def _many(opening: str, closing: str, pieces: Sequence[list[Token]], nesting: int) -> Shape:
    if len(pieces) > MAX_ITEMS:
        return Opaque(",".join(spell(piece) for piece in pieces))
    named = [_named(piece, nesting + 1) for piece in pieces]
    if opening == "" and len({item.name for item in named}) == len(named):
        # `y = 2, x = 1` is the point (1, 2)
        ordered = sorted(named, key=lambda item: item.name)
        return Many("(", ")", tuple(item.shape for item in ordered))
    items: list[Shape] = []
    for item in (one.shape for one in named):
        # `1 \pm 2` inside a list or set stands for two of its items
        spread = isinstance(item, Many) and item.opening == "" and opening in ("", "{")
        items.extend(item.items if spread and isinstance(item, Many) else (item,))
    return Many(opening, closing, tuple(items))


def _encloses(tokens: list[Token]) -> bool:
    """Whether the first token opens a bracket that the last one closes (kinds may differ)."""
    if tokens[0].text not in _OPENERS:
        return False
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text in _OPENERS) - (token.text in _CLOSERS)
        if depth == 0:
            # `\end` is followed by its `{name}`
            return i == len(tokens) - (4 if token.text == r"\end" else 1)
    return False


def _bracketed(tokens: list[Token], nesting: int) -> Shape:
    opening, closing = tokens[0].text, tokens[-1].text
    if opening == r"\begin":
        return _grid(tokens, nesting)
    inner = _trimmed(tokens[1:-1])
    if opening == "{":
        return _shape(inner, nesting + 1)
    pieces = _split(inner, lambda token: token.text in (",", ";"))
    marks = (opening.lstrip("\\"), closing.lstrip("\\"))
    if opening == "\\{":
        return _many(*marks, [piece for piece in pieces if piece], nesting)
    if len(pieces) == 1:
        return (
            _leaf(tokens)
            if opening == "(" and _is_arithmetic(inner)
            else _shape(inner, nesting + 1)
        )
    return _many(*marks, pieces, nesting)


def _is_arithmetic(tokens: list[Token]) -> bool:
    return all(token.kind in ("num", "word", "space", "sym") for token in tokens)


def _grid(tokens: list[Token], nesting: int) -> Shape:
    name, body = tokens[2].text if len(tokens) > 7 else "", tokens[4:-4]
    if name not in _MATRICES or any(token.text == r"\begin" for token in body):
        return Opaque(spell(tokens))
    if name == "array" and body and body[0].text == "{":
        closed = next((i for i, token in enumerate(body) if token.text == "}"), 0)
        body = body[closed + 1 :]
    lines = [line for line in _split(body, lambda token: token.text == "\\\\") if line]
    cells = [_split(line, lambda token: token.text == "&") for line in lines]
    if sum(map(len, cells)) > MAX_ITEMS:
        return Opaque(spell(tokens))
    return Grid(tuple(tuple(_shape(cell, nesting + 1) for cell in row) for row in cells))


def _leaf(tokens: list[Token]) -> Shape:
    """One leaf, or two where `\\pm` stands for both signs."""
    signs = [i for i, token in enumerate(tokens) if token.text in (r"\pm", r"\mp")]
    if len(signs) != 1:
        return leaf(tokens)
    at = signs[0]
    both = [[*tokens[:at], Token("sym", sign), *tokens[at + 1 :]] for sign in "+-"]
    return Many("", "", tuple(leaf(one) for one in both))
