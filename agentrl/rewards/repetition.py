"""How much of a text or a row of tokens repeats itself, and the reward component made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.errors import UserError
from agentrl.points import Services
from agentrl.rewards.texts import sampled_ids, turn_texts
from agentrl.trajectory import Trajectory
from agentrl.transcript import Int32Array


def covered_share(token_ids: Int32Array, n: int) -> float:
    """Share of tokens that lie inside an n-gram which occurs more than once (HAPO); in [0, 1]."""
    if len(token_ids) < n:
        return 0.0
    ids = token_ids.tolist()
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    seen = Counter(grams)
    inside = np.zeros(len(ids), np.bool_)
    for start, gram in enumerate(grams):
        if seen[gram] > 1:
            inside[start : start + n] = True
    return float(inside.mean())


def repeated_share(words: Sequence[str], n: int) -> float:
    """Share of word n-grams that are repeats of one seen before (RPR's rep20 at n = 20)."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def most_repeated(words: Sequence[str], n: int) -> int:
    """How often the most frequent word n-gram occurs; 0 when there is none (RLPR at n = 10)."""
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return max(grams.values(), default=0)


def loop_share(token_ids: Int32Array) -> float:
    """f(y) of CAMPO: share of the row inside a terminal loop, in [0, 1]; 0 without a loop.

    For each block length k, equal blocks are counted backwards from the end; two or more make a
    loop that starts with the first of them. The longest such k decides.
    """
    n = len(token_ids)
    for k in range(n // 2, 0, -1):
        if token_ids[n - 1] != token_ids[n - 1 - k]:
            continue
        start = n - k
        while start >= k and np.array_equal(token_ids[start - k : start], token_ids[n - k :]):
            start -= k
        if start < n - k:
            return (n - start) / n
    return 0.0


Measure = Literal["window", "words", "tokens", "loop"]


@dataclass(frozen=True, slots=True)
class Repetition:
    """Component `repetition`: a penalty for text that repeats itself.

    window: -penalty once a word n-gram occurs `times` times (RLPR, 2506.18254: n 10, times 10).
    words: -penalty times the share of repeated word n-grams. tokens: -penalty times the share of
    tokens inside a repeated n-gram (HAPO: n 3). loop: -penalty times the terminal loop (CAMPO).
    """

    measure: Measure = "window"
    n: int = 10
    times: int = 10
    penalty: float = 1.0
    component: str = "repetition"

    def __post_init__(self) -> None:
        if self.n < 1 or self.times < 2:
            raise UserError(f"repetition needs n >= 1 and times >= 2, not {self.n}, {self.times}")

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """One component, at most 0."""
        return {self.component: 0.0 - self.penalty * self.share(trajectory)}

    def share(self, trajectory: Trajectory) -> float:
        """How repetitive it is, in [0, 1]."""
        match self.measure:
            case "tokens":
                return covered_share(sampled_ids(trajectory), self.n)
            case "loop":
                return loop_share(sampled_ids(trajectory))
            case "words":
                return repeated_share(" ".join(turn_texts(trajectory)).split(), self.n)
            case "window":
                words = " ".join(turn_texts(trajectory)).split()
                return float(most_repeated(words, self.n) >= self.times)


__all__ = [
    "Measure",
    "Repetition",
    "covered_share",
    "loop_share",
    "most_repeated",
    "repeated_share",
]
