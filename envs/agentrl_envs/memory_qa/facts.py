"""What can be true of a person: attributes with one value or several, and their words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Style = Literal["terse", "plain"]
"""`terse`: a few bytes, for tiny byte-level models; `plain`: English sentences."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Fact:
    """What is true of one person and attribute."""

    values: tuple[str, ...] = ()
    """Present ones, oldest first; at most one unless the attribute takes many."""
    before: str | None = None
    """The value before the present one, where it is remembered."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A property that stories tell about, in one style."""

    name: str
    many: bool
    """True when a new value joins the old ones instead of replacing them."""
    values: tuple[str, ...]
    first: str
    """How the first value is told: `{v}` is the value."""
    further: str
    """How a new value is told (many) or a change (one)."""
    gone: str
    """How a value is taken away; empty for attributes with one value."""
    memory: str
    """How a memory says it: `{p}` the person, `{v}` the values."""
    past: str
    """Added to a memory where the value before is known: `{b}`."""
    question: str
    """Asks for the present value, or how many there are."""
    earlier: str
    """Asks for the value before the present one, `{v}`; empty where values join."""

    def remembered(self, person: str, fact: Fact) -> str:
        """The memory that holds a fact with at least one value."""
        joint = " " if "." not in self.memory else ", "
        past = self.past.format(b=fact.before) if fact.before else ""
        return self.memory.format(p=person, v=joint.join(fact.values), past=past)

    def read(self, person: str, text: str) -> Fact | None:
        """What a memory's text says about the person; None when it says nothing of this attribute.

        Reads by key words: the person's name and known values, in their order.
        """
        words = [word.casefold() for word in _WORD.findall(text)]
        if person.casefold() not in words:
            return None
        known = {value.casefold(): value for value in self.values}
        found = list(dict.fromkeys(known[word] for word in words if word in known))
        if not found:
            return None
        if self.many:
            return Fact(tuple(found))
        return Fact((found[0],), found[1] if len(found) > 1 else None)


_PLACES = ("Tarnwick", "Brillo", "Ostavia", "Kelmore", "Dunlea", "Varsa", "Quill", "Marrowby")
_JOBS = ("baker", "pilot", "nurse", "potter", "welder", "florist", "judge", "chemist")
_PETS = ("Buddy", "Scout", "Pickle", "Waffles", "Nimbus", "Tofu", "Ziggy", "Mango")
_HOBBIES = ("chess", "sailing", "origami", "archery", "pottery", "fencing", "birding", "karaoke")

PLAIN: tuple[Attribute, ...] = (
    Attribute(
        "home",
        False,
        _PLACES,
        "I live in {v}, by the way.",
        "Big news: I have moved to {v}!",
        "",
        "{p} lives in {v}{past}.",
        " (before: {b})",
        "Where does {p} live now?",
        "Where did {p} live before {v}?",
    ),
    Attribute(
        "job",
        False,
        _JOBS,
        "I work as a {v}.",
        "I changed my job: I am a {v} now.",
        "",
        "{p} works as a {v}{past}.",
        " (before: {b})",
        "What is the job of {p} now?",
        "What was the job of {p} before {v}?",
    ),
    Attribute(
        "pets",
        True,
        _PETS,
        "I adopted a dog and called it {v}.",
        "I adopted another dog! Its name is {v}.",
        "Sadly I had to give {v} away, my dog.",
        "{p} has these dogs: {v}.",
        "",
        "How many dogs does {p} have?",
        "",
    ),
    Attribute(
        "hobbies",
        True,
        _HOBBIES,
        "I have taken up {v} as a hobby.",
        "I have one more hobby now, {v}.",
        "I gave up {v}, it was no fun any more.",
        "{p} has these hobbies: {v}.",
        "",
        "How many hobbies does {p} have?",
        "",
    ),
)

TERSE: tuple[Attribute, ...] = (
    Attribute(
        "home",
        False,
        ("Tar", "Bri", "Osk", "Kel", "Dun", "Var", "Qui", "Mor"),
        "in {v}",
        "now in {v}",
        "",
        "{p} in {v}{past}",
        " was {b}",
        "{p} in",
        "{p} was in",
    ),
    Attribute(
        "pets",
        True,
        ("dog", "cat", "fox", "hen", "ant", "pig", "owl", "rat"),
        "got {v}",
        "also got {v}",
        "lost {v}",
        "{p} has {v}",
        "",
        "{p} has",
        "",
    ),
)

STYLES: Mapping[Style, tuple[Attribute, ...]] = {"plain": PLAIN, "terse": TERSE}
ATTRIBUTES = frozenset(attribute.name for attribute in PLAIN)

__all__ = ["ATTRIBUTES", "PLAIN", "STYLES", "TERSE", "Attribute", "Fact", "Style"]
