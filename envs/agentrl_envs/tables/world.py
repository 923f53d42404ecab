"""Generated tables: invented rows, categories to filter by, numbers to reckon with, distractors."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from agentrl_envs.families.base import Split
from agentrl_envs.fiction import names
from agentrl_tools.table_data import Table


@dataclass(frozen=True, slots=True)
class Number:
    """A column of numbers."""

    name: str
    low: int
    high: int
    decimals: int = 0


@dataclass(frozen=True, slots=True)
class Theme:
    """What a table is about."""

    entity: str
    """Name of the first column."""
    plural: str
    categories: tuple[str, ...]
    """Columns of names that several rows share."""
    numbers: tuple[Number, ...]


THEMES: tuple[Theme, ...] = (
    Theme("Town", "towns", ("Region", "Governor"), (
        Number("Residents", 200, 90_000), Number("Founded", 1100, 1990), Number("Bridges", 1, 80),
        Number("Area in km2", 2, 400, 1), Number("Tax per head", 20, 900, 2),
    )),
    Theme("Ship", "ships", ("Harbour", "Captain"), (
        Number("Crew", 4, 900), Number("Length in m", 10, 380, 1), Number("Built", 1850, 2020),
        Number("Load in t", 5, 9_000), Number("Price in million", 1, 700, 2),
    )),
    Theme("Runner", "runners", ("Club", "Coach"), (
        Number("Races", 3, 300), Number("Wins", 0, 90), Number("Best time in s", 100, 260, 2),
        Number("Age", 16, 59), Number("Prize money", 0, 40_000),
    )),
    Theme("Machine", "machines", ("Plant", "Maker"), (
        Number("Hours", 10, 60_000), Number("Faults", 0, 400), Number("Power in kW", 1, 900, 1),
        Number("Cost per hour", 1, 90, 2), Number("Bought", 1970, 2024),
    )),
    Theme("Potion", "potions", ("Brewer", "Colour"), (
        Number("Strength", 1, 500), Number("Price", 1, 400, 2), Number("Sold", 0, 9_000),
        Number("Bottles", 1, 900), Number("Weight in g", 20, 900, 1),
    )),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Size:
    """How large a table is."""

    rows: int
    columns: int
    """Columns that a question may use, the names among them: 3 at least."""
    distractors: int
    """Columns beside those, with names and values like theirs, that no question uses."""


@dataclass(frozen=True, slots=True)
class World:
    """A table and what its columns are."""

    theme: Theme
    table: Table
    categories: tuple[str, ...]
    numbers: tuple[str, ...]
    """Columns of numbers a question may use; no number stands in one of them twice."""


def make_world(rng: Random, split: Split, size: Size) -> World:
    """A table of a random theme."""
    theme = rng.choice(THEMES)
    n_categories = 1 if size.columns < 5 else 2
    numbers = rng.sample(theme.numbers, min(size.columns - 1 - n_categories, len(theme.numbers)))
    categories = rng.sample(theme.categories, n_categories)
    entities = names(rng, split, size.rows)
    columns: dict[str, list[str]] = {}
    for category in categories:
        shared = names(rng, split, max(2, size.rows // 4), syllables=1)
        columns[category] = [rng.choice(shared) for _ in entities]
    for number in numbers:
        columns[number.name] = _distinct(rng, number, size.rows)
    for i in range(size.distractors):
        # Like the column it is modelled on in all but a word of its name.
        model = numbers[i % len(numbers)]
        columns[f"{model.name} {_suffix(i // len(numbers))}"] = _distinct(rng, model, size.rows)
    order = rng.sample(list(columns), len(columns))
    rows = tuple((entity, *(columns[c][i] for c in order)) for i, entity in enumerate(entities))
    table = Table((theme.entity, *order), rows)
    return World(theme, table, tuple(categories), tuple(number.name for number in numbers))


def _suffix(i: int) -> str:
    kinds = ("last year", "planned", "estimated")
    return kinds[i % 3] + ("" if i < 3 else f" {i // 3 + 1}")


def _distinct(rng: Random, number: Number, n: int) -> list[str]:
    """`n` different numbers, as a table writes them: some with commas for thousands."""
    scale = 10**number.decimals
    values = rng.sample(range(number.low * scale, number.high * scale + n), n)
    commas = number.high > 9_999
    return [
        f"{v:,}"
        if commas
        else f"{v // scale}.{v % scale:0{number.decimals}d}"
        if scale > 1
        else str(v)
        for v in values
    ]
