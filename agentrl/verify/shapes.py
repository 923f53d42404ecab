r"""What an answer is made of: numbers with units, words, lists, tuples, intervals, matrices.

Second rung of the ladder: `shapes` cuts canonical tokens at brackets, commas and `\cup` and reads
each leaf. Nesting and length are bounded, so the work stays linear in the text; whatever has no
plain shape becomes `Opaque`, which equals only its own spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from agentrl.verify import units
from agentrl.verify.arithmetic import Unreadable, Value, evaluate
from agentrl.verify.tokens import Token, join_thousands, names, spell

MAX_ITEMS = 64
"""Longest list, tuple or matrix that is compared item by item."""
MAX_NESTING = 12


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number or an expression, with what was written around it."""

    value: Value
    variables: frozenset[str]
    source: str
    """Canonical spelling without units."""
    unit: units.Unit | None = None
    """None when no unit, or none that is known, was written."""
    percent: bool = False
    decimals: int | None = None
    """Digits after the point of a plain decimal literal; None for anything else."""
    digits: int = 0
    """Significant digits of a plain decimal literal."""


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words, such as a name or a choice letter."""

    text: str
    """Lower case, without brackets and punctuation."""


@dataclass(frozen=True, slots=True)
class Numeral:
    """A numeral with its base written below, such as 52_8."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something of no plain shape; equal to its own spelling only."""

    source: str


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


Shape: TypeAlias = Quantity | Words | Numeral | Opaque | Many | Union | Grid


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
_INFINITE = {r"\infty": 1, r"+\infty": 1, r"-\infty": -1, "oo": 1, "-oo": -1, "inf": 1, "-inf": -1}
_MATRICES = frozenset(("pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "array"))
_MATH_WORDS = names(
    "pi sqrt sin cos tan cot sec csc log ln exp inf infinity mod base or and not if unless "
    "where times plus minus divided over squared cubed factorial"
)
_MULTIPLIERS = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_NUMBER_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
_SINGLE_LETTER_UNITS = names("m g s h l L N J W V A K C F")
_CURRENCY = frozenset("$€£¥")


def shapes(tokens: list[Token], *, lenient: bool) -> list[Named]:
    """All readings of an answer, the likeliest first.

    `1,234` without spaces is a number or a list. With `lenient` (the prediction's side) a letter
    after a number, `5 m`, is also read as a unit.
    """
    tokens = _without_phrase(_trimmed(tokens))
    readings = [tokens]
    joined = join_thousands(tokens, Token("sym", ","))
    if joined != tokens and not any(token.text in _OPENERS for token in tokens):
        readings.insert(0, joined)
    if lenient and len(tokens) > 1 and tokens[-1].text in _SINGLE_LETTER_UNITS:
        readings.append([*tokens[:-1], Token("text", tokens[-1].text)])
    return [_named(reading, 0) for reading in readings]


def plain(text: str) -> str:
    """Words as they are compared: lower case, letters and digits only, no leading article."""
    kept = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return " ".join(kept[1:] if len(kept) > 1 and kept[0] in ("a", "an", "the") else kept)


def _trimmed(tokens: list[Token]) -> list[Token]:
    """Without white space and closing punctuation at the ends."""
    start, end = 0, len(tokens)
    while start < end and tokens[start].kind == "space":
        start += 1
    while end > start and (tokens[end - 1].kind == "space" or tokens[end - 1].text in (*".,;:",)):
        end -= 1
    return tokens[start:end]


def _without_phrase(tokens: list[Token]) -> list[Token]:
    """Drop a lead-in such as "The final answer is" or "Answer:"."""
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
    if all(token.kind in ("word", "text", "space") for token in tokens) and _is_wordy(tokens):
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
    """A number with its unit, words, a numeral in a base, or two values joined by `\\pm`."""
    spelt = spell(tokens)
    if spelt in _INFINITE:
        x = complex(_INFINITE[spelt] * float("inf"))
        return Quantity((x, x, x), frozenset(), spelt)
    if all(
        token.kind in ("text", "word", "space") or token.text in "().-'" for token in tokens
    ) and (_is_wordy(tokens)):
        text = plain(" ".join(token.text for token in tokens))
        number = _NUMBER_WORDS.get(text)
        return Words(text) if number is None else Quantity(Fraction(number), frozenset(), text)
    signs = [i for i, token in enumerate(tokens) if token.text in (r"\pm", r"\mp")]
    if len(signs) == 1:
        at = signs[0]
        both = [[*tokens[:at], Token("sym", sign), *tokens[at + 1 :]] for sign in "+-"]
        return Many("", "", tuple(_leaf(one) for one in both))
    return _numeral(tokens) or _quantity(tokens)


def _is_wordy(tokens: list[Token]) -> bool:
    """Words proper: wrapped as text, or three letters and more; `x` and `xy` are algebra."""
    return any(t.kind == "text" and t.text.strip() for t in tokens) or any(
        t.kind == "word"
        and (len(t.text) > 2 or t.text.lower() == "no")
        and t.text not in _MATH_WORDS
        for t in tokens
    )


def _numeral(tokens: list[Token]) -> Numeral | None:
    texts = [token.text for token in tokens if token.text not in "{} "]
    if len(texts) != 3 or texts[1] != "_" or not (texts[0].isdigit() and texts[2].isdigit()):
        return None
    base = int(texts[2]) if len(texts[2]) < 3 else 0
    valid = 2 <= base <= 10 and all(int(digit) < base for digit in texts[0])
    return Numeral(texts[0].lstrip("0") or "0", base) if valid else None


@dataclass(frozen=True, slots=True)
class _Trailer:
    """What was peeled off a number: unit words, their power, percent and a multiplier."""

    words: tuple[str, ...] = ()
    power: int = 1
    percent: bool = False
    times: int = 1


def _quantity(tokens: list[Token]) -> Shape:
    head, trailer = _peel(tokens)
    head, currency = _without_currency(head)
    bare = [token for token in head if token.kind != "space"]
    try:
        value, variables = evaluate(_mixed(head))
    except Unreadable:
        return Opaque(spell(tokens))
    words = (currency,) if currency else trailer.words
    quantity = Quantity(value, variables, spell(head), unit=units.unit_of(words, trailer.power))
    literal = bare[1:] if bare[0].text in ("-", "+") else bare
    if len(literal) == 1 and literal[0].kind == "num":
        decimals, digits = _precision(literal[0].text)
        quantity = replace(quantity, decimals=decimals, digits=digits)
    if trailer.times > 1 and isinstance(value, Fraction):
        quantity = replace(quantity, value=value * trailer.times, decimals=None)
    return replace(quantity, percent=trailer.percent)


def _precision(number: str) -> tuple[int | None, int]:
    """Digits after the point (None in scientific notation) and significant digits."""
    whole, _, decimals = number.partition(".")
    if "e" in number.lower():
        return None, 0
    return len(decimals), len((whole + decimals).lstrip("0"))


def _without_currency(tokens: list[Token]) -> tuple[list[Token], str]:
    """Take a currency sign off the front, a minus before it kept."""
    for i, token in enumerate(tokens[:2]):
        if token.text in _CURRENCY or (token.kind == "word" and token.text in ("USD", "EUR")):
            return [*tokens[:i], *tokens[i + 1 :]], token.text.lower()
        if token.text != "-":
            break
    return tokens, ""


def _mixed(tokens: list[Token]) -> list[Token]:
    """Spell `1 4/5` as `(1+4/5)`, and `-1 4/5` as `-(1+4/5)`."""
    sign, body = (tokens[:1], tokens[1:]) if tokens[:1] == [Token("sym", "-")] else ([], tokens)
    if [token.kind for token in body] != ["num", "space", "num", "sym", "num"]:
        return tokens
    if body[3].text != "/" or not all(body[i].text.isdigit() for i in (0, 2, 4)):
        return tokens
    one = Token("sym", "(")
    return [*sign, one, body[0], Token("sym", "+"), *body[2:], Token("sym", ")")]


def _peel(tokens: list[Token]) -> tuple[list[Token], _Trailer]:
    """Split a number from the units and words after it, reading from the right."""
    words: list[str] = []
    power, times, percent = 1, 1, False
    end = len(tokens)
    while end > 0:
        token = tokens[end - 1]
        if token.text == "%":
            percent = True
        elif token.kind == "unit" or token.text == "¢":
            words.insert(0, token.text)
        elif token.kind == "text":
            words[:0] = token.text.lower().split()
        elif token.kind == "word" and _is_unit_word(tokens, end - 1):
            words.insert(0, token.text.lower())
        elif (raised := _unit_power(tokens, end)) is not None:
            power, end = raised
            continue
        elif not (token.kind == "space" or (words and token.text in "/.-")):
            break
        end -= 1
    for name, factor in _MULTIPLIERS.items():
        if words and words[0] == name:
            times, words = times * factor, words[1:]
    percent = percent or words[:1] == ["percent"]
    words = [word.strip(".") for word in words if word.strip(".")]
    return tokens[:end], _Trailer(tuple(words), power, percent, times)


def _is_unit_word(tokens: list[Token], i: int) -> bool:
    """A known unit, or a word of three letters and more after a space."""
    word = tokens[i].text
    if word.lower() in _MATH_WORDS or len(word) < 2:
        return False
    if units.known(word.lower()):
        return True
    return len(word) > 2 and i > 0 and (tokens[i - 1].kind == "space" or tokens[i - 1].text in "/-")


def _unit_power(tokens: list[Token], end: int) -> tuple[int, int] | None:
    """Power and start of a `^2` or `^{2}` that ends at `end` and follows a unit."""
    for length, at in ((2, -1), (4, -2)):
        part = tokens[end - length : end] if end > length else []
        if not part or part[0].text != "^" or part[at].text not in ("2", "3"):
            continue
        before = tokens[end - length - 1]
        is_unit = before.kind == "word" and units.known(before.text.lower())
        if before.kind == "text" or (is_unit and len(before.text) > 1):
            return int(part[at].text), end - length
    return None
