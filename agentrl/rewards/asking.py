"""Asking the run's judge: deadline, bounded repeats, and what counts as a failure.

A reply that cannot be read is asked for again with a note, so that a cache does not repeat it. What
still cannot be had becomes a fallback value that is counted, or a WorldFault that ends the trajectory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

from agentrl.errors import DeadlineExceeded, UserError, WorldFault
from agentrl.points import Judge, Services

T = TypeVar("T")

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_TAGGED = re.compile(r"<score>\s*([-+]?\d+(?:\.\d+)?)\s*</score>")
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


async def ask(
    services: Services,
    prompt: str,
    read: Callable[[str], T | None],
    *,
    tries: int,
    deadline_s: float,
) -> T:
    """What `read` makes of the judge's reply; None asks again, at most `tries` times in all.

    Raises UserError when the run has no judge; WorldFault when it cannot be had, stays unreadable
    or is slower than `deadline_s` in all.
    """
    judge = judge_of(services)
    try:
        async with asyncio.timeout(deadline_s):
            for attempt in range(tries):
                again = f"\n\n(Request {attempt + 1}: follow the reply format.)" if attempt else ""
                found = read(await judge.grade(prompt + again))
                if found is not None:
                    return found
    except TimeoutError as error:
        raise DeadlineExceeded(f"the judge gave no grade within {deadline_s:g} s") from error
    raise WorldFault(f"the judge gave no readable grade in {tries} tries")


def judge_of(services: Services) -> Judge:
    """The run's judge. Raises UserError when it has none."""
    if services.judge is None:
        raise UserError("a judged reward needs a judge; choose one with algo.judge.name=openai")
    return services.judge


def read_score(reply: str) -> float | None:
    """The last `<score>x</score>`, or else the last number; None without one."""
    tagged = _TAGGED.findall(reply)
    numbers = tagged or _NUMBER.findall(reply)
    return float(numbers[-1]) if numbers else None


def read_verdict(reply: str) -> bool | None:
    """The last yes or no; None without one."""
    said = _VERDICT.findall(reply)
    return said[-1].lower() == "yes" if said else None


def check_asking(name: str, tries: int, deadline_s: float) -> None:
    """Raises UserError on settings under which nothing can be asked."""
    if tries < 1 or deadline_s <= 0:
        raise UserError(f"{name} needs tries >= 1 and deadline_s > 0, not {tries}, {deadline_s:g}")


__all__ = ["ask", "check_asking", "judge_of", "read_score", "read_verdict"]
