"""The endless stream of generated tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from agentrl.types import Task
from agentrl_envs.memory_qa.facts import Style
from agentrl_envs.memory_qa.language import question_of
from agentrl_envs.memory_qa.story import Author, Kind, to_json

FRESH = 4096
"""A stream avoids the ids among its last tasks, counted up to this many at a time."""

TRIES = 20
"""Stories drawn for one that is new; a tiny world may have run out of them."""


def generated(author: Author, kinds: Sequence[Kind], style: Style, rng: Random) -> Iterator[Task]:
    """Tasks whose questions are of the kinds in turn."""
    seen: set[str] = set()
    while True:
        for kind in kinds:
            task = _fresh(author, kind, style, rng, seen)
            seen.add(task.id)
            yield task
        if len(seen) > FRESH:
            seen.clear()


def _fresh(author: Author, kind: Kind, style: Style, rng: Random, seen: set[str]) -> Task:
    task = _task(author, kind, style, rng)
    for _ in range(TRIES):
        if task.id not in seen:
            break
        task = _task(author, kind, style, rng)
    return task


def _task(author: Author, kind: Kind, style: Style, rng: Random) -> Task:
    story = author.story(kind, rng)
    name = f"memory_qa/{kind}/{story.digest}"
    return Task(name, question_of(story, style), story.answer, to_json(story))


__all__ = ["generated"]
