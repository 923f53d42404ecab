"""Units an answer may carry: which two name the same quantity, and by what factor.

Only units that occur in school problems. An unknown unit word is no error: it is ignored, as an
answer's unit is a courtesy; two *known* units of different kinds are a contradiction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """A known unit."""

    kind: str
    """The physical dimension with its power, such as "length^2"; equal kinds can be compared."""
    factor: Fraction
    """How many base units of the kind one of this unit is."""


_TABLE: dict[str, tuple[str, Fraction]] = {}


def _add(kind: str, factor: int | Fraction, *names: str) -> None:
    for name in names:
        _TABLE[name] = (kind, Fraction(factor))


_add("money", 100, "$", "dollar", "usd", "buck")
_add("money", 1, "cent", "¢")
_add("money-eur", 1, "€", "euro", "eur")
_add("money-gbp", 1, "£", "pound-sterling", "gbp")
_add("money-yen", 1, "¥", "yen")
_add("angle", 1, "deg", "degree")
_add("length", Fraction(1, 1000), "mm", "millimeter", "millimetre")
_add("length", Fraction(1, 100), "cm", "centimeter", "centimetre")
_add("length", 1, "m", "meter", "metre")
_add("length", 1000, "km", "kilometer", "kilometre")
_add("length", Fraction(254, 10000), "inch", "inche", "in")
_add("length", Fraction(3048, 10000), "foot", "feet", "ft")
_add("length", Fraction(9144, 10000), "yard", "yd")
_add("length", Fraction(1609344, 1000), "mile", "mi")
_add("time", 1, "s", "sec", "second")
_add("time", 60, "min", "minute")
_add("time", 3600, "h", "hr", "hour")
_add("time", 86400, "day")
_add("time", 604800, "week")
_add("calendar", 1, "month")
_add("calendar", 12, "year", "yr")
_add("mass", Fraction(1, 1000), "mg", "milligram")
_add("mass", 1, "g", "gram")
_add("mass", 1000, "kg", "kilogram")
_add("weight", 1, "ounce", "oz")
_add("weight", 16, "pound", "lb")
_add("volume", Fraction(1, 1000), "ml", "milliliter", "millilitre")
_add("volume", 1, "l", "liter", "litre")

_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


def known(word: str) -> bool:
    """Whether the word, singular or plural, is a unit of the table or a power before one."""
    return word in _POWERS or _look_up(word) is not None


def unit_of(words: Sequence[str], power: int = 1) -> Unit | None:
    """The unit that lower-cased `words` spell, raised to `power`; None when unknown.

    "square inches" is inches with power 2; "dollars per day" is not a unit of the table.
    """
    if len(words) == 2 and words[0] in _POWERS and power == 1:
        words, power = words[1:], _POWERS[words[0]]
    entry = _look_up(words[0]) if len(words) == 1 else None
    if entry is None:
        return None
    kind, factor = entry
    return Unit(kind if power == 1 else f"{kind}^{power}", factor**power)


def _look_up(word: str) -> tuple[str, Fraction] | None:
    entry = _TABLE.get(word)
    if entry is None and len(word) > 2 and word.endswith("s"):
        entry = _TABLE.get(word[:-1])
    return entry
