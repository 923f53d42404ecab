"""The leaves of an answer: numbers with units, words, numerals in a base.

A leaf is read in this order: infinity, words, a numeral such as 52_8, and a quantity, whose units,
percent sign and trailing words are peeled off from the right before the rest is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from agentrl.verify import units
from agentrl.verify.arithmetic import evaluate
from agentrl.verify.tokens import Token, names, spell
from agentrl.verify.values import Unreadable, Value


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


Leaf: TypeAlias = Quantity | Words | Numeral | Opaque

_INFINITE = {r"\infty": 1, r"+\infty": 1, r"-\infty": -1, "oo": 1, "-oo": -1, "inf": 1, "-inf": -1}
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
_CURRENCY = frozenset("$€£¥")


def plain(text: str) -> str:
    """Words as they are compared: lower case, letters and digits only, no leading article."""
    kept = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return " ".join(kept[1:] if len(kept) > 1 and kept[0] in ("a", "an", "the") else kept)


def leaf(tokens: list[Token]) -> Leaf:
    """A number with its unit, words, a numeral in a base, or else opaque."""
    spelt = spell(tokens)
    if spelt in _INFINITE:
        x = complex(_INFINITE[spelt] * float("inf"))
        return Quantity((x, x, x), frozenset(), spelt)
    if all(
        token.kind in ("text", "word", "space") or token.text in "().-'" for token in tokens
    ) and (is_wordy(tokens)):
        text = plain(" ".join(token.text for token in tokens))
        number = _NUMBER_WORDS.get(text)
        return Words(text) if number is None else Quantity(Fraction(number), frozenset(), text)
    return _numeral(tokens) or _quantity(tokens)


def is_wordy(tokens: list[Token]) -> bool:
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


def _quantity(tokens: list[Token]) -> Quantity | Opaque:
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
