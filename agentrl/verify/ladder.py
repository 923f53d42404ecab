r"""The cheap ladder: is a predicted answer the gold one? Yes, no, or not decided here.

Equal spelling after LaTeX normalisation, then exact rationals (integers, fractions, mixed
numbers, decimals, percent, thousands, units, currency), then lists, sets, tuples, intervals,
unions and matrices item by item, then numeric fingerprints of roots and polynomials. Only what
stays undecided (None) is worth a symbolic check. Text is never executed, and texts over
`MAX_CHARS` are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from agentrl.verify.leaves import Numeral, Opaque, Quantity, Words, plain
from agentrl.verify.shapes import Grid, Many, Named, Shape, Union, shapes, stated
from agentrl.verify.tokens import Token, spell, tidy, write
from agentrl.verify.values import Value, agree

MAX_CHARS = 4096
"""Longest answer, in characters, that is compared; no gold in use comes near."""

NOISE = Fraction(1, 10**12)
"""Relative error forgiven to a float of 16 digits and more: 13.999999999999998 is 14."""
MIN_DIGITS = 6
"""Significant digits from which a rounded or cut decimal may stand for 1/3 or pi."""


def ladder(gold: str, prediction: str) -> bool | None:
    """Whether `prediction` states the answer `gold`; None when undecided.

    Both are bare answers, not whole responses. Not symmetric: only the prediction may carry an
    extra unit letter, a float's rounding noise or a decimal approximation.
    """
    if max(len(gold), len(prediction)) > MAX_CHARS:
        return None
    wanted, said = _read(gold, False), _read(prediction, True)
    if not wanted.tokens:
        return None
    if not said.tokens:
        return False
    if wanted.spelling == said.spelling or _same_choice(wanted.tokens, said.tokens):
        return True
    return _any([_same_named(one, two) for one in wanted.readings for two in said.readings])


def latex(answer: str) -> str:
    """The answer as plain LaTeX for a parser: no lead-in, math mode, punctuation or spacing."""
    return write(stated(tidy(answer)))


def canonical(answer: str) -> str:
    """A key that equal answers mostly share, for majority votes: `\\frac12`, `1/2` and `0.5` do.

    Exact numbers give their reduced fraction, everything else its canonical spelling.
    """
    if len(answer) > MAX_CHARS:
        return answer
    read = _read(answer, False)
    shape = read.readings[0].shape if read.readings else None
    if isinstance(shape, Quantity) and isinstance(shape.value, Fraction):
        return str(shape.value / 100 if shape.percent else shape.value)
    return shape.text if isinstance(shape, Words) else read.spelling


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as the rungs need it."""

    tokens: tuple[Token, ...]
    spelling: str
    readings: tuple[Named, ...]


@lru_cache(maxsize=2048)
def _read(answer: str, lenient: bool) -> _Answer:
    """Read an answer once; siblings of a group share their gold and often their prediction."""
    tokens = tidy(answer)
    readings = shapes(tokens, lenient=lenient) if tokens else ()
    return _Answer(tuple(tokens), spell(tokens), tuple(readings))


def _any(verdicts: Sequence[bool | None]) -> bool | None:
    """True if one is, False if all are, else undecided."""
    if True in verdicts:
        return True
    return None if None in verdicts else False


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """False if one is, True if all are, else undecided."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _same_choice(gold: Sequence[Token], said: Sequence[Token]) -> bool:
    """Gold `(C)` and a prediction that opens with the same letter: `C.`, `(C) ellipse`."""
    letter = "".join(token.text for token in gold).strip("() ")
    wrapped = any(token.kind == "text" or token.text == "(" for token in gold)
    if not wrapped or len(letter) != 1 or not letter.isupper():
        return False
    opening = [token.text for token in said[:3] if token.text != "("]
    return len(opening) > 1 and opening[0] == letter and opening[1] in (*").:",)


def _same_named(gold: Named, said: Named) -> bool | None:
    """Names are optional (`x = 5` is 5), but two different ones prove nothing here."""
    verdict = _same(gold.shape, said.shape)
    if gold.name and said.name and gold.name != said.name:
        return False if verdict is False else None
    return verdict


def _same(gold: Shape, said: Shape) -> bool | None:
    if isinstance(gold, Words) or isinstance(said, Words):
        return _same_words(gold, said)
    if isinstance(gold, Opaque) or isinstance(said, Opaque):
        same = isinstance(gold, Opaque) and isinstance(said, Opaque) and gold.source == said.source
        return True if same else None
    if isinstance(gold, Numeral) or isinstance(said, Numeral):
        return _same_numeral(gold, said)
    if isinstance(gold, Quantity) and isinstance(said, Quantity):
        return _same_quantity(gold, said)
    if isinstance(gold, Grid) or isinstance(said, Grid):
        return _same_grid(gold, said)
    if isinstance(gold, Many) and isinstance(said, Many):
        return _same_many(gold, said)
    if isinstance(gold, Union) and isinstance(said, Union):
        return _same_bag(gold.parts, said.parts) or None
    if {type(gold), type(said)} == {Many, Union}:
        return None
    if isinstance(gold, Many) or isinstance(said, Many):
        return _one_against_many(gold, said)
    return False


def _same_words(gold: Shape, said: Shape) -> bool | None:
    """Words settle a case alone: no structure or number equals a word."""
    if isinstance(gold, Words):
        said_text = said.text if isinstance(said, Words) else plain(getattr(said, "source", ""))
        return gold.text == said_text
    if isinstance(gold, Quantity) and isinstance(said, Words):
        return bool(gold.variables) and plain(gold.source) == said.text
    return None if isinstance(gold, Opaque) else False


def _same_numeral(gold: Shape, said: Shape) -> bool:
    """`52_8` equals itself and a bare 52 (the question names the base), no other base."""
    if isinstance(gold, Numeral) and isinstance(said, Numeral):
        return gold == said
    if isinstance(gold, Numeral) and isinstance(said, Quantity):
        return said.value == Fraction(int(gold.digits))
    if isinstance(gold, Quantity) and isinstance(said, Numeral):
        return gold.value == Fraction(int(said.digits, said.base))
    return False


def _same_grid(gold: Shape, said: Shape) -> bool | None:
    """Matrices of one size agree entry by entry; a tuple may stand for a column vector."""
    wanted, given = _as_grid(gold), _as_grid(said)
    if [len(row) for row in wanted.rows] != [len(row) for row in given.rows]:
        return False
    return _all([_in_order(one, two) for one, two in zip(wanted.rows, given.rows, strict=True)])


def _as_grid(shape: Shape) -> Grid:
    """`[[1, 2], [3, 4]]` as the matrix of those rows, `(1, 2)` as one column, 1 as itself."""
    if isinstance(shape, Grid):
        return shape
    if not isinstance(shape, Many):
        return Grid(((shape,),))
    if all(isinstance(item, Many) for item in shape.items):
        return Grid(tuple(item.items for item in shape.items if isinstance(item, Many)))
    return Grid(tuple((item,) for item in shape.items))


def _same_many(gold: Many, said: Many) -> bool | None:
    """Bare lists and sets ignore order; tuples and intervals keep it, and their brackets."""
    unordered = ("", "{")
    if gold.opening in unordered and said.opening in (*unordered, "["):
        listed = said.opening == "[" and said.closing != "]"
        return False if listed else _same_bag(gold.items, said.items)
    if gold.opening == "(" and said.opening == "":
        return _in_order(gold.items, said.items) if gold.closing == ")" else False
    if gold.opening in unordered:
        ordered = _in_order(gold.items, said.items)
        return True if ordered and gold.opening == "" else False if ordered is False else None
    if (gold.opening, gold.closing) != (said.opening, said.closing):
        return False
    return _in_order(gold.items, said.items)


def _in_order(gold: Sequence[Shape], said: Sequence[Shape]) -> bool | None:
    if len(gold) != len(said):
        return False
    return _all([_same(wanted, given) for wanted, given in zip(gold, said, strict=True)])


def _same_bag(gold: Sequence[Shape], said: Sequence[Shape]) -> bool | None:
    """Equal as multisets: each gold item takes one equal item of the prediction."""
    if len(gold) != len(said):
        return None if any(isinstance(item, Opaque) for item in (*gold, *said)) else False
    left = list(said)
    undecided = False
    for wanted in gold:
        verdicts = [_same(wanted, given) for given in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _one_against_many(gold: Shape, said: Shape) -> bool | None:
    """A list of one is its item; otherwise one value never equals several."""
    many, one = (gold, said) if isinstance(gold, Many) else (said, gold)
    assert isinstance(many, Many)
    if len(many.items) == 1:
        return _same(many.items[0], one) if many is gold else _same(one, many.items[0])
    return None if any(isinstance(item, Opaque | Words) for item in many.items) else False


def _same_quantity(gold: Quantity, said: Quantity) -> bool | None:
    if gold.unit and said.unit:
        if gold.unit.kind != said.unit.kind:
            return False
        if gold.unit.factor != said.unit.factor:
            return _converted(gold, said)
    if gold.percent == said.percent:
        return _same_number(gold, said)
    scaled = [
        _hundredth(gold) if gold.percent else gold,
        _hundredth(said) if said.percent else said,
    ]
    as_values = _same_number(scaled[0], scaled[1])
    # "what percent?" is answered by 25 and by 25 %; a gold below 1 is no such answer
    if gold.percent or (isinstance(gold.value, Fraction) and abs(gold.value) >= 1):
        return _any([as_values, _same_number(gold, said)])
    return as_values


def _converted(gold: Quantity, said: Quantity) -> bool | None:
    if not (gold.unit and said.unit):
        return None
    if isinstance(gold.value, Fraction) and isinstance(said.value, Fraction):
        return gold.value * gold.unit.factor == said.value * said.unit.factor
    return None


def _hundredth(quantity: Quantity) -> Quantity:
    value = quantity.value
    if isinstance(value, Fraction):
        return Quantity(value / 100, quantity.variables, quantity.source)
    a, b, c = value
    return Quantity((a / 100, b / 100, c / 100), quantity.variables, quantity.source)


def _same_number(gold: Quantity, said: Quantity) -> bool | None:
    verdict = agree(gold.value, said.value)
    if verdict or gold.variables or not said.decimals or not isinstance(said.value, Fraction):
        return verdict
    return _approximates(gold.value, said.value, said.decimals, said.digits)


def _approximates(gold: Value, said: Fraction, decimals: int, digits: int) -> bool:
    """Whether a decimal literal is the gold up to float noise, or its rounding when it has none.

    A gold that *is* a short decimal must be met exactly, float noise apart.
    """
    if isinstance(gold, Fraction):
        noise = NOISE * abs(gold) or NOISE
        if said.denominator > 1 and abs(said - gold) <= noise and (digits >= 16 or gold == 0):
            return True
        if _terminates(gold.denominator):
            return False
    elif gold[0].imag == 0:
        gold = Fraction(gold[0].real)
    else:
        return False
    error, step = abs(said - gold), Fraction(1, 10**decimals)
    cut = abs(said) <= abs(gold) and error < step
    return digits >= MIN_DIGITS and (cut or error <= step / 2)


def _terminates(denominator: int) -> bool:
    """Whether a fraction with this denominator is a finite decimal: only 2s and 5s divide it."""
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1
