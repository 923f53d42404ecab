"""The exact memory manager, and one of uneven habits.

Exact: what is told first is added; a change updates the memory and keeps the value before; a further
value joins the others by an update (never DELETE + ADD, which loses them); what is gone is taken out,
and a memory with nothing left is deleted; chat is NOOP. A hasty manager misses things or overwrites, as
Memory-R1 (arXiv:2508.19828, figure 1) shows an untrained one do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from agentrl_envs.memory_qa.facts import Attribute, Fact
from agentrl_envs.memory_qa.story import Event, Key, after, key_of
from agentrl_tools.memory import Entry, Operation


@dataclass(frozen=True, slots=True)
class Belief:
    """What a bank says about one person and attribute."""

    fact: Fact = field(default_factory=Fact)
    ids: tuple[int, ...] = ()
    """Memories that say it, oldest first."""


def belief(entries: Sequence[Entry], person: str, attribute: Attribute) -> Belief:
    """Read a bank: of an attribute with one value the newest memory counts, of others all together."""
    read = [(entry.id, attribute.read(person, entry.text)) for entry in entries]
    said = [(entry_id, fact) for entry_id, fact in sorted(read, key=_by_id) if fact is not None]
    if not said:
        return Belief()
    ids = tuple(entry_id for entry_id, _ in said)
    if attribute.many:
        values = dict.fromkeys(value for _, fact in said for value in fact.values)
        return Belief(Fact(tuple(values)), ids)
    earlier = [fact.values[0] for _, fact in said[:-1]]
    newest = said[-1][1]
    before = newest.before or next((v for v in reversed(earlier) if v != newest.values[0]), None)
    return Belief(Fact(newest.values, before), ids)


def _by_id(item: tuple[int, Fact | None]) -> int:
    return item[0]


def operations(
    entries: Sequence[Entry],
    events: Sequence[Event],
    attributes: Mapping[str, Attribute],
    *,
    care: float = 1.0,
    rng: Random,
) -> tuple[Operation, ...]:
    """What the manager does with a session's events, given the bank; one NOOP for nothing.

    Each event is taken in exactly with probability `care`, else hastily.
    """
    old: dict[Key, Belief] = {}
    new: dict[Key, Fact] = {}
    for event in events:
        key = key_of(event)
        if event.happening == "chat":
            continue
        old.setdefault(key, belief(entries, event.person, attributes[event.attribute]))
        known = new.get(key, old[key].fact)
        new[key] = after(event, known) if rng.random() < care else hasty(event, known, rng)
    asked = [
        operation
        for key, fact in new.items()
        for operation in _rewritten(key[0], attributes[key[1]], old[key], fact)
    ]
    return tuple(asked) or (Operation("NOOP"),)


def hasty(event: Event, fact: Fact, rng: Random) -> Fact:
    """What somebody makes of an event who misses it, or overwrites what was known."""
    if event.happening == "tell" or not fact.values:
        return fact
    if event.happening == "add":
        return Fact((event.value,))
    if rng.random() < 0.5:
        return fact
    return Fact((event.value,)) if event.happening == "change" else Fact()


def _rewritten(person: str, attribute: Attribute, old: Belief, fact: Fact) -> Sequence[Operation]:
    """The operations that bring a bank from one belief to another."""
    if fact == old.fact:
        return ()
    if not fact.values:
        return [Operation("DELETE", entry_id) for entry_id in old.ids]
    text = attribute.remembered(person, fact)
    if not old.ids:
        return (Operation("ADD", None, text),)
    stale = [Operation("DELETE", entry_id) for entry_id in old.ids[:-1]]
    return (Operation("UPDATE", old.ids[-1], text), *stale)


__all__ = ["Belief", "belief", "hasty", "operations"]
