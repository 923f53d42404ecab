"""A task as an episode plays it: sessions of lines, however the task came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

from agentrl.errors import UserError
from agentrl.types import JsonValue, Task
from agentrl_envs.memory_qa.facts import Fact, Style
from agentrl_envs.memory_qa.keeper import Belief, belief, operations
from agentrl_envs.memory_qa.language import attributes_of, lines_of
from agentrl_envs.memory_qa.story import Story, answer_of, from_json
from agentrl_tools.memory import Entry, Operation


@dataclass(frozen=True, slots=True)
class Session:
    """One chunk of dialogue."""

    lines: tuple[str, ...]
    when: str = ""
    """Its date, with a blank in front, where it has one."""
    notes: tuple[str, ...] = ()
    """What a reader of this session alone would remember; only in stories from files."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The sessions of a task, who talks, and where its answer was last touched."""

    sessions: tuple[Session, ...]
    speakers: tuple[str, ...]
    linked: int
    """Index of the last session that the answer depends on."""
    story: Story | None
    """What happened, for generated tasks; None for tasks from files."""
    style: Style

    def exact(
        self, entries: Sequence[Entry], at: int, *, care: float, rng: Random
    ) -> tuple[Operation, ...]:
        """What the exact manager does with session `at`; see `keeper`.

        Tasks from files have no events to be exact about: their notes are added, or else their lines.
        """
        if self.story is None:
            session = self.sessions[at]
            said = session.notes or session.lines
            return tuple(Operation("ADD", None, f"{note}{session.when}") for note in said)
        events, attributes = self.story.sessions[at], attributes_of(self.style)
        return operations(entries, events, attributes, care=care, rng=rng)

    def read(self, entries: Sequence[Entry]) -> tuple[Belief, str]:
        """The exact answerer: what the memories say, and the answer that follows.

        Raises UserError on a task from a file, whose questions no rule can read.
        """
        if self.story is None:
            raise UserError("tasks from files need env.answerer=policy or the name of a partner")
        attribute = attributes_of(self.style)[self.story.attribute]
        known = belief(entries, self.story.person, attribute)
        return known, answer_of(self.story.kind, known.fact or Fact())


def dialogue_of(task: Task, style: Style) -> Dialogue:
    """The dialogue of a task. Raises UserError when it is none of this environment's."""
    if "dialogue" in task.metadata:
        return _from_file(cast("Mapping[str, JsonValue]", task.metadata["dialogue"]), style)
    story = from_json(task.metadata)
    sessions = tuple(Session(tuple(lines)) for lines in lines_of(story, style))
    return Dialogue(sessions, story.people, story.linked, story, style)


def _from_file(data: Mapping[str, JsonValue], style: Style) -> Dialogue:
    sessions = tuple(
        Session(
            tuple(cast("Sequence[str]", node["lines"])),
            str(node["when"]),
            tuple(cast("Sequence[str]", node["notes"])),
        )
        for node in cast("Sequence[Mapping[str, JsonValue]]", data["sessions"])
    )
    speakers = tuple(cast("Sequence[str]", data["speakers"]))
    return Dialogue(sessions, speakers, int(str(data["linked"])), None, style)


__all__ = ["Dialogue", "Session", "dialogue_of"]
