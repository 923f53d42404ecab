"""The unfinished turn of a live episode, and the places that branches go back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from agentrl.engine.base import Generation, Sampling
from agentrl.env import Action
from agentrl.rollout.limits import Limits
from agentrl.rollout.parts import Parts
from agentrl.rollout.recorder import Moment
from agentrl.trajectory import StopReason
from agentrl.transcript import Int32Array, ids_array


@dataclass(frozen=True, slots=True)
class Played:
    """A turn that the environment has answered."""

    action: Action
    answer: int
    """Fingerprint of the observation."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The beginning of a turn: what a branch from within it goes back to."""

    n_tokens: int
    """Of the present row."""
    moment: Moment
    n_played: int
    unreadable: int
    """Turns in a row, just before, that could not be read."""
    by: str | None
    """Who writes the turn, as the environment would have it."""


@dataclass(slots=True)
class Turn:
    """What has been written of a turn, in one or more parts."""

    by: str | None = None
    """The partner whom the environment lets write it."""
    parts: int = 0
    carried: Int32Array = field(default_factory=lambda: ids_array([]))
    """What it wrote in rows that were left for a fresh one."""
    complete: bool = False
    """It ended as turns do."""
    ended: bool = False
    """Its last id is one that ends turns."""

    def ids(self, written: Int32Array) -> Int32Array:
        """All of its ids; `written` are those in the present row."""
        return written if not len(self.carried) else np.concatenate([self.carried, written])

    def wrote(self, generation: Generation, pauses: Sequence[str]) -> None:
        """A part is there; one that stopped at one of `pauses` did not complete the turn."""
        self.ended = generation.stop == "stop_id"
        paused = generation.stop_text is not None and generation.stop_text in pauses
        self.complete = generation.stop != "length" and not paused


def part_sampling(
    parts: Parts, seed: int, room: int, entropies: bool, stop: Sequence[str]
) -> Sampling:
    """The settings of a turn's next part, of at most `room` tokens; it stops at `stop` too."""
    return replace(
        parts.sampling,
        max_tokens=room,
        stop=(*parts.protocol.stops, *(s for s in stop if s not in parts.protocol.stops)),
        stop_ids=parts.renderer.stop_ids,
        seed=seed,
        entropies=entropies or parts.sampling.entropies,
    )


def room_left(n: int, start: int, limits: Limits, max_context: int) -> tuple[int, StopReason]:
    """Tokens that a turn begun at `start` of a row of `n` may still have, and what uses them up."""
    rooms = (
        (limits.turn_tokens - (n - start), StopReason.TURN_TOKENS),
        (limits.max_tokens - n, StopReason.MAX_TOKENS),
        (max_context - n, StopReason.CONTEXT),
    )
    return min(rooms, key=lambda room: room[0])


__all__ = ["Mark", "Played", "Turn", "part_sampling", "room_left"]
