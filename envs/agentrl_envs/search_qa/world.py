"""A world of people, towns and companies that do not exist, and the passages that describe it.

After FictionalHot (ReSeek, arXiv:2510.00568), where an LLM renames the entities of known questions;
here facts, names and pages are drawn from a seed, so there is no question that leaked anywhere. Every
entity has one page. Distractor passages mention an entity beside other names of the right kind, and
hold no fact that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from agentrl.retrieval import Passage
from agentrl.seeds import derive
from agentrl_envs.families.base import Split, Style
from agentrl_envs.search_qa.names import unlike
from agentrl_envs.search_qa.overlap import WordOverlap
from agentrl_envs.search_qa.relations import Kind, Relation, of_kind
from agentrl_envs.search_qa.wording import mention, page_text

PAGE, SIDE = "page/", "side/"
"""How the ids of pages and of distractors begin."""

SHARE: Mapping[Kind, int] = {"person": 1, "town": 4, "firm": 4}
"""People to every entity of a kind."""


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """What a world follows from."""

    split: Split
    style: Style = "plain"
    seed: int = 0
    people: int = 400
    """People; there are a quarter as many towns, and as many companies as towns."""
    distractors: int = 2
    """Passages per entity that mention it and answer nothing."""


@dataclass(frozen=True, slots=True)
class World:
    """The facts, and the corpus that tells them."""

    spec: WorldSpec
    kinds: Mapping[str, Kind]
    """Name of every entity -> its kind."""
    facts: Mapping[tuple[str, str], str]
    """(entity, relation) -> an entity's name, or a year."""
    passages: Sequence[Passage]
    """A page per entity, titled by its name, then the distractors."""
    retriever: WordOverlap
    """Over all passages."""


@lru_cache(maxsize=8)
def world_of(spec: WorldSpec) -> World:
    """The world of a spec; episodes share it and nobody writes to it."""
    rng = Random(derive("world", spec.split, spec.style, spec.seed, spec.people))
    kinds = _entities(rng, spec)
    facts = _facts(rng, kinds)
    passages = [*_pages(kinds, facts, spec.style), *_distractors(rng, kinds, spec)]
    return World(spec, kinds, facts, passages, WordOverlap(passages))


def _entities(rng: Random, spec: WorldSpec) -> dict[str, Kind]:
    taken: set[str] = set()
    kinds: dict[str, Kind] = {}
    for kind, share in SHARE.items():
        for _ in range(max(2, spec.people // share)):
            kinds[_named(rng, spec, kind, taken)] = kind
    return kinds


def _named(rng: Random, spec: WorldSpec, kind: Kind, taken: set[str]) -> str:
    own = unlike(rng, spec.split, taken, spec.style)
    if spec.style == "terse" or kind == "town":
        return own
    return (
        f"{own} {unlike(rng, spec.split, taken, spec.style)}"
        if kind == "person"
        else f"{own} Works"
    )


def _facts(rng: Random, kinds: Mapping[str, Kind]) -> dict[tuple[str, str], str]:
    members: dict[Kind, list[str]] = {
        kind: [name for name, k in kinds.items() if k == kind] for kind in SHARE
    }
    return {
        (name, relation.name): _value(rng, relation, members, name)
        for name, kind in kinds.items()
        for relation in of_kind(kind)
    }


def _value(
    rng: Random, relation: Relation, members: Mapping[Kind, Sequence[str]], name: str
) -> str:
    """Somebody else of the relation's kind, or a year."""
    if relation.value == "year":
        return str(rng.randint(1100, 1990))
    while True:
        value = rng.choice(members[relation.value])
        if value != name:
            return value


def _pages(
    kinds: Mapping[str, Kind], facts: Mapping[tuple[str, str], str], style: Style
) -> list[Passage]:
    """Ids and positions say nothing about who is asked about."""
    return [
        Passage(
            f"{PAGE}{number:05d}",
            name,
            page_text(name, kind, {r.name: facts[name, r.name] for r in of_kind(kind)}, style),
        )
        for number, (name, kind) in enumerate(kinds.items())
    ]


def _distractors(rng: Random, kinds: Mapping[str, Kind], spec: WorldSpec) -> list[Passage]:
    names = list(kinds)
    passages: list[Passage] = []
    for name in names:
        for _ in range(spec.distractors):
            others = rng.sample(names, 2)
            title, text = mention(name, [o for o in others if o != name], len(passages), spec.style)
            passages.append(Passage(f"{SIDE}{len(passages):05d}", title, text))
    return passages


__all__ = ["PAGE", "SIDE", "World", "WorldSpec", "world_of"]
