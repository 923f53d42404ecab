"""Generated SQLite databases: groups, their members and what those did, all invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from agentrl_envs.families.base import Split
from agentrl_envs.fiction import names


@dataclass(frozen=True, slots=True)
class Domain:
    """The words of a database: three tables, each one's columns."""

    group: str
    place: str
    group_number: str
    member: str
    members: str
    first: str
    """Number of a member, small; `second` is large."""
    second: str
    event: str
    events: str
    amount: str
    label: str


DOMAINS: tuple[Domain, ...] = (
    Domain("guild", "town", "founded", "artisan", "artisans", "age", "fee",
           "commission", "commissions", "price", "material"),
    Domain("harbour", "country", "depth", "ship", "ships", "crew", "tonnage",
           "voyage", "voyages", "earnings", "cargo"),
    Domain("club", "city", "opened", "player", "players", "height", "salary",
           "contest", "contests", "points", "venue"),
    Domain("farm", "region", "hectares", "animal", "animals", "age", "weight",
           "checkup", "checkups", "cost", "vet"),
    Domain("school", "district", "rooms", "pupil", "pupils", "height", "savings",
           "project", "projects", "budget", "subject"),
)  # fmt: skip
YEARS = range(2015, 2025)


@dataclass(frozen=True, slots=True)
class Cast:
    """The names of a database; two databases of one cast differ in numbers and relations only."""

    domain: Domain
    groups: tuple[str, ...]
    places: tuple[str, ...]
    members: tuple[str, ...]
    labels: tuple[str, ...]
    tables: int
    """1: members alone; 2: groups too; 3: events too."""


def make_cast(rng: Random, split: Split, *, members: int, tables: int) -> Cast:
    """Names of one split for a random domain."""
    n_groups = max(3, members // 4)
    every = names(rng, split, members + n_groups)
    return Cast(
        rng.choice(DOMAINS),
        tuple(every[members:]),
        tuple(names(rng, split, max(2, n_groups // 2), syllables=1)),
        tuple(every[:members]),
        tuple(names(rng, split, 3, syllables=1)),
        tables,
    )


def script(rng: Random, cast: Cast) -> str:
    """Statements that make a database of this cast, with numbers and relations drawn anew."""
    d, n = cast.domain, len(cast.members)
    lines = [_member_table(cast)]
    firsts, seconds = rng.sample(range(10, 10 + 4 * n), n), rng.sample(range(100, 10_000), n)
    for i, name in enumerate(cast.members):
        row: list[object] = [i + 1, name]
        row += [rng.randint(1, len(cast.groups))] if cast.tables > 1 else []
        lines.append(_insert(d.member, [*row, firsts[i], seconds[i]]))
    if cast.tables > 1:
        lines += [
            f"CREATE TABLE {d.group}(id INTEGER PRIMARY KEY, name TEXT, {d.place} TEXT, "
            f"{d.group_number} INTEGER);"
        ]
        for i, name in enumerate(cast.groups):
            place = cast.places[i % len(cast.places)]
            lines.append(_insert(d.group, [i + 1, name, place, rng.randint(100, 999)]))
    if cast.tables > 2:
        lines += [
            f"CREATE TABLE {d.event}(id INTEGER PRIMARY KEY, {d.member}_id INTEGER REFERENCES "
            f"{d.member}(id), year INTEGER, {d.amount} INTEGER, {d.label} TEXT);"
        ]
        amounts = rng.sample(range(10, 5_000), 2 * n)
        for i, amount in enumerate(amounts):
            who, label = rng.randint(1, n), rng.choice(cast.labels)
            lines.append(_insert(d.event, [i + 1, who, rng.choice(YEARS), amount, label]))
    return "\n".join(lines)


def _member_table(cast: Cast) -> str:
    d = cast.domain
    group = f"{d.group}_id INTEGER REFERENCES {d.group}(id), " if cast.tables > 1 else ""
    return (
        f"CREATE TABLE {d.member}(id INTEGER PRIMARY KEY, name TEXT, {group}"
        f"{d.first} INTEGER, {d.second} INTEGER);"
    )


def _insert(table: str, row: Sequence[object]) -> str:
    cells = ", ".join(str(cell) if isinstance(cell, int) else f"'{cell}'" for cell in row)
    return f"INSERT INTO {table} VALUES ({cells});"


def schema_of(made: str) -> str:
    """The CREATE lines of a script."""
    return "\n".join(line for line in made.splitlines() if line.upper().startswith("CREATE"))
