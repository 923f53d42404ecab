"""The rules by which ATLAS (arXiv:2511.01093) turns episodes into lessons and lessons into prompts.

An ensemble of small judges scores an episode; where they disagree, an arbiter rules. A reward of 0.4
or more is a success. What is kept are principles, not transcripts; together they are a playbook, named
by its SHA-256. A run that must not learn gets its prompts byte for byte.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from agentrl.errors import ToolError, UserError
from agentrl.types import Message

SUCCESS = 0.4
"""Reward from which an episode counts as a success."""

SPREAD = 0.2
"""Population standard deviation of the judges' scores above which the arbiter rules."""

PAMPHLET_CHARS = 1200
"""Of one lesson: more is a transcript."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an episode is worth."""

    reward: float
    arbitrated: bool
    """True when the judges disagreed and the arbiter ruled."""

    @property
    def success(self) -> bool:
        """Whether the reward reaches the bar."""
        return self.reward >= SUCCESS


def verdict(
    scores: Sequence[float], arbiter: Callable[[], float], *, spread: float = SPREAD
) -> Verdict:
    """The judges' mean, or the arbiter's score where they spread too far; it is asked only then.

    Raises UserError without a score.
    """
    if not scores:
        raise UserError("a verdict needs the score of at least one judge")
    if statistics.pstdev(scores) > spread:
        return Verdict(arbiter(), True)
    return Verdict(statistics.fmean(scores), False)


def pamphlet(text: str) -> str:
    """A lesson's text, tidied. Raises ToolError on one that is empty or as long as a transcript."""
    tidy = "\n".join(
        line.strip() for line in text.replace("\x00", " ").splitlines() if line.strip()
    )
    tidy = tidy.encode("utf-8", "replace").decode("utf-8")
    if not tidy:
        raise ToolError("There is no lesson to keep.")
    if len(tidy) > PAMPHLET_CHARS:
        told = f"The lesson has {len(tidy)} characters, {PAMPHLET_CHARS} are kept"
        raise ToolError(f"{told}: write the principle, not what happened.")
    return tidy


@dataclass(frozen=True, slots=True)
class Playbook:
    """Lessons as they are put before a task."""

    text: str

    @property
    def hash(self) -> str:
        """SHA-256 of the text, in hexadecimal: the same lessons, the same name."""
        return sha256(self.text.encode()).hexdigest()


def playbook(lessons: Sequence[str]) -> Playbook:
    """Lessons in their order, a dash in front of each; empty without one."""
    return Playbook("\n".join(f"- {lesson}" for lesson in lessons))


def prompted(
    messages: tuple[Message, ...], book: Playbook, *, apply_to_prompts: bool
) -> tuple[Message, ...]:
    """First messages with a playbook in the system message; untouched unless `apply_to_prompts`.

    An empty playbook changes nothing either.
    """
    if not apply_to_prompts or not book.text:
        return messages
    told = f"Lessons of earlier tasks:\n{book.text}"
    if messages and messages[0].role == "system":
        joint = f"{messages[0].content}\n\n{told}"
        return (replace(messages[0], content=joint), *messages[1:])
    return (Message("system", told), *messages)


__all__ = [
    "PAMPHLET_CHARS",
    "SPREAD",
    "SUCCESS",
    "Playbook",
    "Verdict",
    "pamphlet",
    "playbook",
    "prompted",
    "verdict",
]
