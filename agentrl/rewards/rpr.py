"""Reasoning pattern reward (2505.22653): does the text read like reasoning, whatever its answer?

RPR = max(0, min(1, hits / 20) - rep20 - n_user): hits counts the distinct planning, checking and
connecting phrases that occur, rep20 is the share of repeated word 20-grams, n_user counts "user: ".
Calibration of a noisy reward model: rm' = min(1, rm + 0.1 RPR) where rm < 0.5.

Deviation: the phrase list is this project's own; the paper's has about as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services, Shaped
from agentrl.rewards.base import COMPONENT, added, column, measured
from agentrl.rewards.repetition import repeated_share
from agentrl.rewards.texts import turn_texts
from agentrl.trajectory import Group, Trajectory

PHRASES = (
    "first,", "second,", "next,", "then,", "finally,", "we need to", "we know that", "we are given",
    "let's", "let me", "start by", "step by step", "break this down", "the goal is", "the plan",
    "recall that", "note that", "consider", "suppose", "assume", "because", "since", "therefore",
    "thus", "hence", "so that", "which means", "it follows", "in other words", "for example",
    "however", "on the other hand", "alternatively", "instead", "wait", "hmm", "check", "verify",
    "double-check", "make sure", "let's see", "to summarize", "in conclusion", "the answer is",
)  # fmt: skip
"""Phrases that count, lower case."""


def score(text: str, *, full: int = 20, gram: int = 20) -> float:
    """RPR of a text, in [0, 1]; `full` distinct phrases are worth 1."""
    lower = text.lower()
    hits = sum(phrase in lower for phrase in PHRASES)
    return value(hits, repeated_share(lower.split(), gram), lower.count("user: "), full=full)


def value(hits: int, repeated: float, n_user: int, *, full: int = 20) -> float:
    """RPR from its three counts."""
    return max(0.0, min(1.0, hits / full) - repeated - n_user)


@dataclass(frozen=True, slots=True)
class RprPhrases:
    """Reward function: the component `rpr/score`, a measurement."""

    component: str = "rpr/score"
    full: int = 20
    """Distinct phrases worth 1."""

    def __post_init__(self) -> None:
        if self.full < 1:
            raise UserError(f"rpr_phrases.full is at least 1, not {self.full}")

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Reads the policy's own text."""
        return {self.component: score("\n".join(turn_texts(trajectory)), full=self.full)}


@dataclass(frozen=True, slots=True)
class Rpr:
    """Shaper: raises low rewards of a noisy model by the reasoning score."""

    weight: float = 0.1
    below: float = 0.5
    """Only rewards under it are raised."""
    score: str = "rpr/score"
    component: str = COMPONENT

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when the score was not recorded."""
        scores = column(group, self.score, "rpr")
        changes: list[float] = []
        for trajectory, rpr in zip(group.trajectories, scores, strict=True):
            rm = trajectory.rewards.get(self.component, 0.0)
            gain = min(1.0, rm + self.weight * rpr) - rm if rm < self.below else 0.0
            changes.append(gain - (0.0 if measured(self.score) else rpr))
        return added(shaped, changes)


__all__ = ["PHRASES", "Rpr", "RprPhrases", "score", "value"]
