"""Memory-R and Memory-R+ (2504.02273): an intrinsic reward from episodes remembered for the task.

M_s and M_f hold embeddings of earlier responses with R > 0.5 and of the others. Of the K nearest
questions:
    R_exploit = -|| a - mean(M_s) ||_2,   R_explore = 1 - max_{b in M_f} cos(a, b),
each min-max normalised over its last `window` values; R_mem = b_s exploit + b_e explore, explore only
after the warm-up. Memory-R is b_e = 0.

A response is scored against what earlier steps left and inserted afterwards. The released code inserts
first, so that a wrong response always meets itself (novelty 0) and a right one pulls the mean to
itself.

Deviation: the paper embeds with all-MiniLM-L6-v2; by default words are hashed into a unit vector, which
needs no model. `embed` names a function of text that gives any other vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import TypeAlias, cast, final

import numpy as np
import numpy.typing as npt

from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx, Shaped
from agentrl.registry import resolve
from agentrl.rewards.base import COMPONENT, CORRECT, added, correct
from agentrl.rewards.texts import turn_texts
from agentrl.trajectory import Group

SUCCESSES, FAILURES = "memory_r.successes", "memory_r.failures"
QUESTIONS, WINDOW = "memory_r.questions", "memory_r.window"
DIMENSIONS = 256

Vector: TypeAlias = npt.NDArray[np.float64]
Embed: TypeAlias = Callable[[str], Sequence[float]]


def hashed_words(text: str) -> Sequence[float]:
    """Unit vector of the text's words and word pairs, each in a signed place given by its hash."""
    vector = np.zeros(DIMENSIONS)
    words = text.lower().split()
    for gram in [*words, *(" ".join(pair) for pair in pairwise(words))]:
        digest = blake2b(gram.encode("utf-8", "replace"), digest_size=4).digest()
        place = int.from_bytes(digest[:3], "big") % DIMENSIONS
        vector[place] += 1.0 if digest[3] % 2 else -1.0
    norm = float(np.linalg.norm(vector))
    return (vector / norm if norm else vector).tolist()


def exploit(a: Vector, successes: Vector) -> float | None:
    """-|| a - mean ||_2 of vectors [n, d]; None while there is none."""
    return None if len(successes) == 0 else -float(np.linalg.norm(a - successes.mean(0)))


def explore(a: Vector, failures: Vector) -> float:
    """1 - the greatest cosine with vectors [n, d]; 1 while there is none."""
    return 1 - max((cosine(a, b) for b in failures), default=0.0)


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of two vectors; 0 when one of them is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def normalised(values: Sequence[float], window: Sequence[float]) -> list[float]:
    """(x - min) / (max - min) over the window; 0 when it has no extent."""
    low, high = min(window, default=0.0), max(window, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


@final
class MemoryR:
    """Adds R_mem."""

    def __init__(
        self,
        *,
        exploit: float = 1.0,
        explore: float = 1.0,
        warm_steps: int = 50,
        nearest: int = 1,
        capacity: int = 100,
        window: int = 100,
        embed: str | None = None,
        component: str = COMPONENT,
        above: float = CORRECT,
    ) -> None:
        """Weights b_s and b_e, and the memory's sizes.

        Args:
            exploit: b_s.
            explore: b_e; 0 is Memory-R.
            warm_steps: steps without the explore term.
            nearest: K, questions whose memories are joined.
            capacity: responses kept per question and side.
            window: values that min and max are taken over.
            embed: `module:function` from text to a vector; None hashes words.
            component: decides what is a success.
            above: its bar.

        Raises UserError on a size that is not positive.
        """
        if min(nearest, capacity, window) < 1 or warm_steps < 0:
            raise UserError("memory_r needs nearest, capacity, window >= 1 and warm_steps >= 0")
        self._weights = {"exploit": exploit, "explore": explore}
        self._warm_steps, self._nearest = warm_steps, nearest
        self._capacity, self._window = capacity, window
        self._embed = hashed_words if embed is None else cast(Embed, resolve("reward", embed))
        self._component, self._above = component, above

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Offers every response and every raw value; what is read is what was committed before."""
        question = np.array(self._embed(group.task.question), np.float64)
        answers = [
            np.array(self._embed("\n".join(turn_texts(t))), np.float64) for t in group.trajectories
        ]
        keys = self._keys(group.task.id, question, history)
        right, wrong = (_stack(history, space, keys) for space in (SUCCESSES, FAILURES))
        raw: dict[str, list[float | None]] = {"exploit": [exploit(a, right) for a in answers]}
        if ctx.step >= self._warm_steps and self._weights["explore"]:
            raw["explore"] = [explore(a, wrong) for a in answers]
        changes = np.zeros(len(answers))
        for name, values in raw.items():
            changes += self._weights[name] * np.array(self._scaled(name, values, history))
        writes = self._writes(group, question, answers, raw)
        return added(shaped, changes.tolist(), writes)

    def _keys(self, own: str, question: Vector, history: HistoryStore) -> list[str]:
        """The K nearest remembered questions; the task itself is nearer than any other."""
        known = history.keys(QUESTIONS)
        distance = {
            key: -2.0 if key == own else -cosine(question, _stack(history, QUESTIONS, [key])[0])
            for key in known
        }
        return sorted(known, key=lambda key: (distance[key], key))[: self._nearest]

    def _scaled(
        self, name: str, values: Sequence[float | None], history: HistoryStore
    ) -> list[float]:
        """Normalised over the committed window and the group; without a memory nothing is earned."""
        known = [value for value in values if value is not None]
        before = [value for (value,) in history.recent(WINDOW, name)]
        scaled = iter(normalised(known, [*before, *known]))
        return [0.0 if value is None else next(scaled) for value in values]

    def _writes(
        self,
        group: Group,
        question: Vector,
        answers: Sequence[Vector],
        raw: dict[str, list[float | None]],
    ) -> list[Write]:
        task = group.task.id
        writes = [_write(QUESTIONS, task, task, question, 1)] if answers else []
        for index, (trajectory, answer) in enumerate(zip(group.trajectories, answers, strict=True)):
            ok = correct(trajectory, self._component, self._above)
            space, uid = SUCCESSES if ok else FAILURES, trajectory.uid
            writes.append(_write(space, task, uid, answer, self._capacity))
            for name, values in raw.items():
                value = values[index]
                if value is not None:
                    writes.append(_write(WINDOW, name, uid, [value], self._window))
        return writes


def _write(space: str, key: str, uid: str, vector: Sequence[float] | Vector, keep: int) -> Write:
    return Write(space, key, 0.0, "recent", uid, tuple(map(float, vector)), keep)


def _stack(history: HistoryStore, space: str, keys: Sequence[str]) -> Vector:
    """All vectors of some keys, [n, d]; [0, 0] without one."""
    found = [vector for key in keys for vector in history.recent(space, key)]
    return np.array(found, np.float64) if found else np.zeros((0, 0))


__all__ = [
    "FAILURES",
    "QUESTIONS",
    "SUCCESSES",
    "WINDOW",
    "MemoryR",
    "cosine",
    "exploit",
    "explore",
    "hashed_words",
    "normalised",
]
