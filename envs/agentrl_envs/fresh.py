"""Endless streams of drawn tasks that do not repeat themselves early."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agentrl.types import Task

REMEMBERED = 4096
"""Ids among the last tasks are avoided, counted up to this many at a time."""

TRIES = 20
"""Draws before a repetition is accepted: a small world may have run out of new tasks."""


def fresh(draw: Callable[[], Task]) -> Iterator[Task]:
    """Drawn tasks for ever, new ones as long as they are easy to find."""
    seen: set[str] = set()
    while True:
        task = draw()
        for _ in range(TRIES):
            if task.id not in seen:
                break
            task = draw()
        seen = seen if len(seen) < REMEMBERED else set()
        seen.add(task.id)
        yield task


__all__ = ["fresh"]
