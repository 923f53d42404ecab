"""What can be asked about a person, a town or a company of the world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentrl_envs.families.base import Style

Kind: TypeAlias = Literal["person", "town", "firm"]


@dataclass(frozen=True, slots=True)
class Relation:
    """A question that every entity of one kind answers."""

    name: str
    """Also the word that stands for it in the terse style; no two relations share one."""
    subject: Kind
    value: Kind | Literal["year"]
    """A year can only be asked for last."""
    phrase: str
    """`the home town of {}`: how a plain question speaks of the value."""
    sentence: str
    """How a plain page states it, of `{name}` and `{value}`."""


RELATIONS = (
    Relation("home", "person", "town", "the town in which {} lives", "{name} lives in {value}."),
    Relation(
        "firm", "person", "firm", "the company that employs {}", "{name} is employed by {value}."
    ),
    Relation("born", "person", "year", "the year in which {} was born", "Born in {value}."),
    Relation("mayor", "town", "person", "the mayor of {}", "The mayor of {name} is {value}."),
    Relation("twin", "town", "town", "the twin town of {}", "Its twin town is {value}."),
    Relation(
        "since", "town", "year", "the year in which {} was founded", "It was founded in {value}."
    ),
    Relation("boss", "firm", "person", "the head of {}", "{name} is headed by {value}."),
    Relation("seat", "firm", "town", "the seat of {}", "The company has its seat in {value}."),
    Relation("open", "firm", "year", "the year in which {} opened", "It opened in {value}."),
)
"""In the order in which a page states them."""


def of_kind(kind: Kind) -> tuple[Relation, ...]:
    """The relations whose subject is of that kind."""
    return tuple(relation for relation in RELATIONS if relation.subject == kind)


def askable(kind: Kind, style: Style, *, last: bool) -> tuple[Relation, ...]:
    """What a chain may ask of such an entity; years are plain and come last."""
    years = last and style == "plain"
    return tuple(r for r in of_kind(kind) if years or r.value != "year")


__all__ = ["RELATIONS", "Kind", "Relation", "askable", "of_kind"]
