"""Questions about a generated database and the gold query of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from agentrl_envs.sql_qa.schemas import YEARS, Cast


@dataclass(frozen=True, slots=True)
class Query:
    """A question and the query that answers it."""

    text: str
    sql: str
    ordered: bool = False
    """Whether the question asks for an order."""


def _filtered(rng: Random, c: Cast) -> Query:
    d, bound = c.domain, rng.randint(2_000, 7_000)
    return Query(
        f"List the names of all {d.members} whose {d.second} is above {bound}.",
        f"SELECT name FROM {d.member} WHERE {d.second} > {bound}",
    )


def _count(rng: Random, c: Cast) -> Query:
    d, low = c.domain, 10 + rng.randint(0, len(c.members))
    high = low + 2 * len(c.members)
    return Query(
        f"Of how many {d.members} is the {d.first} from {low} to {high}, both included?",
        f"SELECT count(*) FROM {d.member} WHERE {d.first} BETWEEN {low} AND {high}",
    )


def _top(rng: Random, c: Cast) -> Query:
    d = c.domain
    column = rng.choice((d.first, d.second))
    return Query(
        f"Which {d.member} has the highest {column}? Return the name and the {column}.",
        f"SELECT name, {column} FROM {d.member} ORDER BY {column} DESC LIMIT 1",
    )


def _ranked(rng: Random, c: Cast) -> Query:
    d, n = c.domain, rng.randint(2, 4)
    return Query(
        f"Give the names of the {n} {d.members} with the lowest {d.second}, lowest first.",
        f"SELECT name FROM {d.member} ORDER BY {d.second} LIMIT {n}",
        ordered=True,
    )


def _joined(rng: Random, c: Cast) -> Query:
    d, place = c.domain, rng.choice(c.places[: len(c.groups)])
    return Query(
        f"List name and {d.first} of the {d.members} whose {d.group} has the {d.place} {place}.",
        f"SELECT m.name, m.{d.first} FROM {d.member} m JOIN {d.group} g ON m.{d.group}_id = g.id "
        f"WHERE g.{d.place} = '{place}'",
    )


def _per_group(rng: Random, c: Cast) -> Query:
    d = c.domain
    return Query(
        f"For each {d.group} with at least one {d.member}: its name and how many {d.members} it has.",
        f"SELECT g.name, count(*) FROM {d.group} g JOIN {d.member} m ON m.{d.group}_id = g.id "
        "GROUP BY g.id",
    )


def _richest(rng: Random, c: Cast) -> Query:
    d = c.domain
    return Query(
        f"Which {d.group}'s {d.members} have the largest total {d.second}? Return the {d.group}'s "
        "name and that total.",
        f"SELECT g.name, sum(m.{d.second}) FROM {d.group} g JOIN {d.member} m "
        f"ON m.{d.group}_id = g.id GROUP BY g.id ORDER BY 2 DESC LIMIT 1",
    )


def _above_mean(rng: Random, c: Cast) -> Query:
    d = c.domain
    return Query(
        f"List the names of the {d.members} whose {d.second} is above the mean {d.second} of all "
        f"{d.members}.",
        f"SELECT name FROM {d.member} WHERE {d.second} > (SELECT avg({d.second}) FROM {d.member})",
    )


def _total(rng: Random, c: Cast) -> Query:
    d, group, year = c.domain, rng.choice(c.groups), rng.choice(YEARS[2:-2])
    return Query(
        f"What is the total {d.amount} of the {d.events} since {year} (that year included) of the "
        f"{d.members} of the {d.group} {group}? Return 0 when there are none.",
        f"SELECT coalesce(sum(e.{d.amount}), 0) FROM {d.event} e "
        f"JOIN {d.member} m ON e.{d.member}_id = m.id JOIN {d.group} g ON m.{d.group}_id = g.id "
        f"WHERE g.name = '{group}' AND e.year >= {year}",
    )


def _without(rng: Random, c: Cast) -> Query:
    d = c.domain
    return Query(
        f"List the names of the {d.members} that have no {d.event} at all.",
        f"SELECT name FROM {d.member} WHERE id NOT IN (SELECT {d.member}_id FROM {d.event})",
    )


def _busiest(rng: Random, c: Cast) -> Query:
    d, label = c.domain, rng.choice(c.labels)
    return Query(
        f"For {d.events} with the {d.label} {label}: name and total {d.amount} of the 3 {d.members} "
        "with the largest such total, largest first.",
        f"SELECT m.name, sum(e.{d.amount}) AS total FROM {d.member} m JOIN {d.event} e "
        f"ON e.{d.member}_id = m.id WHERE e.{d.label} = '{label}' GROUP BY m.id "
        "ORDER BY total DESC LIMIT 3",
        ordered=True,
    )


def _having(rng: Random, c: Cast) -> Query:
    d = c.domain
    return Query(
        f"List the names of the {d.group}s whose {d.members} have a mean {d.second} above "
        f"5000, with that mean.",
        f"SELECT g.name, avg(m.{d.second}) FROM {d.group} g JOIN {d.member} m "
        f"ON m.{d.group}_id = g.id GROUP BY g.id HAVING avg(m.{d.second}) > 5000",
    )


KINDS: Mapping[str, Callable[[Random, Cast], Query]] = {
    "filtered": _filtered, "count": _count, "top": _top, "ranked": _ranked,
    "joined": _joined, "per_group": _per_group, "richest": _richest, "having": _having,
    "above_mean": _above_mean, "total": _total, "without": _without, "busiest": _busiest,
}  # fmt: skip
LEVELS: Mapping[str, int] = {
    "filtered": 1, "count": 1, "top": 1, "ranked": 1,
    "joined": 2, "per_group": 2, "richest": 2, "having": 2,
    "above_mean": 3, "total": 3, "without": 3, "busiest": 3,
}  # fmt: skip
"""The level a kind belongs to: one table; a join; three tables or a query in a query."""
