"""DAPO's soft overlong punishment (2503.14476, equation 13)."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.trajectory import Group
from agentrl.transcript import floats_array


@dataclass(frozen=True, slots=True)
class Overlong:
    """Adds min(0, -(|y| - (max_tokens - cache_tokens)) / cache_tokens * factor).

    |y| counts tokens the policy wrote; observations cost nothing.
    """

    max_tokens: int
    """Length at which the whole penalty is reached."""
    cache_tokens: int
    """Width of the ramp before it."""
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.cache_tokens <= self.max_tokens:
            raise UserError(
                f"overlong needs 0 < cache_tokens <= max_tokens, not {self.cache_tokens} and "
                f"{self.max_tokens}"
            )

    def penalty(self, n_tokens: int) -> float:
        """0 up to the ramp, then falling without a floor."""
        over = n_tokens - (self.max_tokens - self.cache_tokens)
        return min(0.0, -over / self.cache_tokens * self.factor)

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        penalties = floats_array([self.penalty(t.n_sampled) for t in group.trajectories])
        return shaped._replace(rewards_G=floats_array(shaped.rewards_G + penalties), writes=())


__all__ = ["Overlong"]
