"""INSPO's population of instructions (2512.01945): weights, choice, credit, pruning, recombination."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentrl.seeds import derive

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SPAN = 2.0**63
"""Seeds are below this."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One member of the population."""

    number: int
    """Never given twice in a run."""
    text: str
    weight: float = 0.0
    """Running mean of the rewards of the groups that worked under it."""


def probabilities(weights: Sequence[float], tau: float) -> list[float]:
    """softmax(w / tau)."""
    top = max(weights)
    raised = [math.exp((weight - top) / tau) for weight in weights]
    return [value / sum(raised) for value in raised]


def chosen(population: Sequence[Instruction], tau: float, seed: int) -> Instruction:
    """The member that `seed`, uniform in [0, 2**63), falls on."""
    left = seed / _SPAN
    for member, p in zip(
        population, probabilities([m.weight for m in population], tau), strict=True
    ):
        left -= p
        if left < 0:
            return member
    return population[-1]


def credited(
    population: Sequence[Instruction], number: int, reward: float, decay: float
) -> tuple[Instruction, ...]:
    """w <- decay w + (1 - decay) reward for that member, if it is still there."""
    return tuple(
        replace(m, weight=decay * m.weight + (1 - decay) * reward) if m.number == number else m
        for m in population
    )


def pruned(population: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """The better half, at least one, in the order of their numbers; the older of equals stays."""
    ranked = sorted(population, key=lambda m: (-m.weight, m.number))
    return tuple(sorted(ranked[: max(1, len(population) // 2)], key=lambda m: m.number))


def recombined(one: str, other: str, seed: int) -> str:
    """Sentences of both, each place taken from either; never empty, never the same one twice."""
    first, second = (_SENTENCE.split(text.strip()) for text in (one, other))
    longer = max(len(first), len(second))
    taken: list[str] = []
    for place in range(longer):
        pair = [s[place] for s in (first, second) if place < len(s)]
        sentence = pair[derive(seed, place) % len(pair)]
        if sentence not in taken:
            taken.append(sentence)
    return " ".join(taken)


__all__ = ["Instruction", "chosen", "credited", "probabilities", "pruned", "recombined"]
