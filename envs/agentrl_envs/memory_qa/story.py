"""Stories: what happens to a few fictional people over several sessions, and one question about it.

Everything about a task follows from its events, which are kept as data; `language` turns them into
lines, memories and questions. The splits share no task because they share no person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from random import Random
from typing import Literal, TypeAlias, cast

from agentrl.errors import UserError
from agentrl.types import JsonValue
from agentrl_envs.memory_qa.facts import ATTRIBUTES, Attribute, Fact

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Happening = Literal["tell", "change", "add", "remove", "chat"]
Kind = Literal["single", "changed", "temporal", "counted"]
"""`single`: told once. `changed`: the latest of several values. `temporal`: the value before the
latest. `counted`: how many are left after additions and deletions."""
KINDS: tuple[Kind, ...] = ("single", "changed", "temporal", "counted")

LEAST_SLOTS: Mapping[Kind, int] = {"single": 1, "changed": 2, "temporal": 2, "counted": 2}
"""Events a question of the kind needs."""

Key: TypeAlias = tuple[str, str]
"""A person and an attribute's name."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person tells."""

    happening: Happening
    person: str
    attribute: str = ""
    """Empty for chat."""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """Sessions of events, and a question."""

    kind: Kind
    person: str
    """Whom the question is about."""
    attribute: str
    people: tuple[str, ...]
    sessions: tuple[tuple[Event, ...], ...]

    @property
    def fact(self) -> Fact:
        """What is true of the person and attribute at the end."""
        return world(self.sessions).get((self.person, self.attribute), Fact())

    @property
    def answer(self) -> str:
        """The gold answer."""
        return answer_of(self.kind, self.fact)

    @property
    def linked(self) -> int:
        """The last session that the answer depends on."""
        key = (self.person, self.attribute)
        told = [i for i, s in enumerate(self.sessions) if any(key == key_of(e) for e in s)]
        return told[-1]

    @property
    def digest(self) -> str:
        """A name for the story's content."""
        return blake2b(repr(self).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a story is."""

    sessions: int = 4
    facts: int = 1
    """Events per session."""
    people: int = 2
    chatter: float = 0.25
    """Share of the events beside the evidence that are chat."""


def key_of(event: Event) -> Key:
    """Whose and which fact an event is about."""
    return event.person, event.attribute


def answer_of(kind: Kind, fact: Fact) -> str:
    """The answer that follows from a fact; `unknown` where nothing is known."""
    if kind == "counted":
        return str(len(fact.values))
    known = fact.before if kind == "temporal" else (fact.values[-1] if fact.values else None)
    return known or "unknown"


def after(event: Event, fact: Fact) -> Fact:
    """What is true after an event."""
    if event.happening in ("tell", "change"):
        before = fact.values[-1] if fact.values else None
        return fact if before == event.value else Fact((event.value,), before)
    if event.happening == "add":
        return fact if event.value in fact.values else Fact((*fact.values, event.value))
    if event.happening == "remove":
        return Fact(tuple(value for value in fact.values if value != event.value))
    return fact


def world(sessions: Sequence[Sequence[Event]]) -> dict[Key, Fact]:
    """All facts after the sessions."""
    facts: dict[Key, Fact] = {}
    for event in (event for session in sessions for event in session):
        if event.happening != "chat":
            facts[key_of(event)] = after(event, facts.get(key_of(event), Fact()))
    return facts


def split_of(person: str) -> Split:
    """The one split in which a person may appear: 6, 1 and 3 of 10."""
    place = (
        int.from_bytes(blake2b(person.encode(), digest_size=4, person=b"memory_qa").digest()) % 10
    )
    return "train" if place < 6 else "validation" if place == 6 else "test"


@dataclass(frozen=True, slots=True)
class Author:
    """Makes stories of one split."""

    names: Sequence[str]
    attributes: Sequence[Attribute]
    shape: Shape

    def story(self, kind: Kind, rng: Random) -> Story:
        """One story whose question is of the kind."""
        people = tuple(rng.sample(self.names, self.shape.people))
        person = rng.choice(people)
        fitting = [a for a in self.attributes if a.many == (kind == "counted")]
        attribute = rng.choice(fitting)
        n_slots = self.shape.sessions * self.shape.facts
        evidence = self._evidence(kind, person, attribute, n_slots, rng)
        places = sorted(rng.sample(range(n_slots), len(evidence)))
        told = dict(zip(places, evidence, strict=True))
        facts: dict[Key, Fact] = {}
        events: list[Event] = []
        for slot in range(n_slots):
            event = told.get(slot) or self._beside(people, (person, attribute.name), facts, rng)
            facts[key_of(event)] = after(event, facts.get(key_of(event), Fact()))
            events.append(event)
        step = self.shape.facts
        sessions = tuple(tuple(events[i : i + step]) for i in range(0, n_slots, step))
        return Story(kind, person, attribute.name, people, sessions)

    def _evidence(
        self, kind: Kind, person: str, attribute: Attribute, n_slots: int, rng: Random
    ) -> list[Event]:
        wanted = {"single": 1, "changed": 2, "temporal": 2}.get(kind) or rng.randint(2, 3)
        events: list[Event] = []
        fact = Fact()
        for _ in range(min(wanted, n_slots)):
            events.append(self._next(person, attribute, fact, rng))
            fact = after(events[-1], fact)
        return events

    def _next(self, person: str, attribute: Attribute, fact: Fact, rng: Random) -> Event:
        """Something that may be told next."""
        unused = [v for v in attribute.values if v not in (*fact.values, fact.before)]
        if not attribute.many:
            return Event(
                "change" if fact.values else "tell", person, attribute.name, rng.choice(unused)
            )
        if fact.values and (rng.random() < 0.35 or not unused or len(fact.values) == 3):
            return Event("remove", person, attribute.name, rng.choice(fact.values))
        return Event("add", person, attribute.name, rng.choice(unused))

    def _beside(
        self, people: Sequence[str], asked: Key, facts: Mapping[Key, Fact], rng: Random
    ) -> Event:
        """Chat, or something about another fact than the one that is asked for."""
        others = [(p, a) for p, a in product(people, self.attributes) if (p, a.name) != asked]
        if not others or rng.random() < self.shape.chatter:
            return Event("chat", rng.choice(people), value=str(rng.randrange(1000)))
        person, attribute = rng.choice(others)
        return self._next(person, attribute, facts.get((person, attribute.name), Fact()), rng)


def to_json(story: Story) -> Mapping[str, JsonValue]:
    """A story as task metadata."""
    sessions = [[[e.happening, e.person, e.attribute, e.value] for e in s] for s in story.sessions]
    return {
        "family": story.kind,
        "person": story.person,
        "attribute": story.attribute,
        "people": list(story.people),
        "sessions": sessions,
    }


def from_json(data: Mapping[str, JsonValue]) -> Story:
    """The story of a task's metadata. Raises UserError on another task's."""
    try:
        sessions = cast("Sequence[Sequence[Sequence[str]]]", data["sessions"])
        events = tuple(tuple(Event(cast(Happening, e[0]), *e[1:]) for e in s) for s in sessions)
        people = tuple(cast("Sequence[str]", data["people"]))
        kind = cast(Kind, data["family"])
        if kind not in KINDS or str(data["attribute"]) not in ATTRIBUTES:
            raise KeyError(kind)
        return Story(kind, str(data["person"]), str(data["attribute"]), people, events)
    except (KeyError, TypeError, IndexError):
        raise UserError(
            "this task was not made by memory_qa; take tasks from env.tasks() or env.locomo"
        ) from None


__all__ = [
    "KINDS",
    "LEAST_SLOTS",
    "SPLITS",
    "Author",
    "Event",
    "Key",
    "Kind",
    "Shape",
    "Split",
    "Story",
    "after",
    "answer_of",
    "from_json",
    "key_of",
    "split_of",
    "to_json",
    "world",
]
