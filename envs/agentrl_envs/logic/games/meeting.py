"""Time sequences: the earliest moment at which everybody is free for long enough."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import final

from agentrl_envs.logic.games.base import Data, Game, Knobs, Puzzle, number, table

NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal")
OPEN, CLOSE = 9 * 60, 17 * 60
"""The working day, in minutes after midnight."""

STEP = 15
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})")


@final
class Meeting(Game):
    """Find the first common free slot of several calendars."""

    name = "time_sequence"
    rules = (
        "The day lasts from 9:00 to 17:00. Everyone is busy at the times given, from the first up "
        "to the second. When is the earliest start of a meeting that all can attend from start to "
        "end? Answer with a time such as 9:45."
    )
    knobs = {"people": (1, 2, 3, 4, 5), "busy": (2, 2, 3, 3, 4)}  # noqa: RUF012
    bounds = {"people": (1, 8), "busy": (1, 8)}  # noqa: RUF012

    def make(self, rng: Random, knobs: Knobs) -> Puzzle:
        """Random appointments with some slot left, which is rarely the first thing in the morning."""
        while True:
            minutes = rng.choice((15, 30, 45, 60))
            busy = [_calendar(rng, knobs["busy"]) for _ in range(knobs["people"])]
            everyone = [slot for calendar in busy for slot in calendar]
            start = earliest(everyone, minutes)
            if start is not None and (start > OPEN or rng.random() < 0.1):
                break
        told = [
            f"{name}: {', '.join(f'{_clock(a)}-{_clock(b)}' for a, b in calendar)}"
            for name, calendar in zip(NAMES, busy, strict=False)
        ]
        body = "\n".join([*told, f"Length of the meeting: {minutes} minutes."])
        slots = [list(slot) for slot in everyone]
        return Puzzle(body, _clock(start), {"busy": slots, "minutes": minutes})

    def right(self, data: Data, answer: str) -> bool:
        """The time named is the earliest one."""
        found = _CLOCK.fullmatch(answer.strip())
        if found is None:
            return False
        start = earliest(table(data, "busy"), number(data, "minutes"))
        return int(found[2]) < 60 and int(found[1]) * 60 + int(found[2]) == start

    def guess(self, data: Data, rng: Random) -> str:
        """Any quarter of an hour of the day."""
        return _clock(rng.randrange(OPEN, CLOSE, STEP))


def earliest(busy: Sequence[Sequence[int]], minutes: int) -> int | None:
    """The first start of a free stretch: the opening, or the end of some appointment."""
    for start in sorted({OPEN, *(end for _, end in busy)}):
        end = start + minutes
        if start >= OPEN and end <= CLOSE and all(end <= a or start >= b for a, b in busy):
            return start
    return None


def _calendar(rng: Random, n: int) -> list[tuple[int, int]]:
    """`n` appointments in order; they may touch but not overlap."""
    while True:
        starts = sorted(rng.sample(range(OPEN, CLOSE - STEP, STEP), n))
        slots = [(a, min(CLOSE, a + STEP * rng.randint(1, 8))) for a in starts]
        if all(b <= c for (_, b), (c, _) in pairwise(slots)):
            return slots


def _clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"
