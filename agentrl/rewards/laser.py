"""LASER and LASER-D (2505.15612): a step reward for right answers within a target length.

R = C(y) + lambda(y) S(y) with S = alpha [|y| <= L] for right answers. LASER's L is given. LASER-D
has one L per difficulty band, the band being the group's own accuracy (cuts 1/3 and 2/3):
    L_b = the least L of a grid with floor(coverage(b, L) n_b) >= 1, else the longest;
    n_b = floor(2 G / 3), floor(G / 3), 1 for the bands high, medium, low;
    coverage(b, L) = share of ALL responses seen in band b that are at most L long.
LASER-DE gives alpha also to wrong answers longer than the target that do not loop: explore on.

Deviation: the paper measures coverage every 20 steps on 500 monitor prompts; here the monitor is
the training groups of the last finished window of `every` steps, so nothing is sampled twice. "Not
repetitive" is: no terminal loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, CORRECT, Count, accuracy, added, correct, length
from agentrl.rewards.repetition import loop_share
from agentrl.rewards.texts import sampled_ids
from agentrl.trajectory import Group, Trajectory

NAMESPACE = "laser_d.lengths"
"""HistoryStore namespace: window/band/grid length -> responses that need that much."""

Band = Literal["low", "medium", "high"]
"""How well the policy does on a task: `high` is high accuracy, an easy task."""


@dataclass(frozen=True, slots=True)
class Laser:
    """Adds alpha to right answers of at most `target_tokens`."""

    target_tokens: int
    alpha: float = 0.5
    count: Count = "sampled"
    component: str = COMPONENT
    above: float = CORRECT

    def __post_init__(self) -> None:
        if self.target_tokens < 1:
            raise UserError(f"laser needs target_tokens >= 1, not {self.target_tokens}")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        earned = [
            correct(t, self.component, self.above) and length(t, self.count) <= self.target_tokens
            for t in group.trajectories
        ]
        return added(shaped, [self.alpha if e else 0.0 for e in earned])


def band_of(share: float) -> Band:
    """The difficulty band of a group with that accuracy."""
    return "high" if share >= 2 / 3 else "medium" if share >= 1 / 3 else "low"


def needed(band: Band, n: int) -> int:
    """n_b: of `n` responses, how many must be able to fit into the target on average."""
    return {"high": max(1, 2 * n // 3), "medium": max(1, n // 3), "low": 1}[band]


def target_length(seen: Mapping[int, float], grid: Sequence[int], total: float, n_b: int) -> int:
    """L_b from a histogram: grid length -> responses that fit it and no shorter one.

    `total` counts all responses, those longer than the whole grid included.
    """
    covered = 0.0
    for length_tokens in grid:
        covered += seen.get(length_tokens, 0.0)
        if covered * n_b >= total > 0:
            return length_tokens
    return grid[-1]


@dataclass(frozen=True, slots=True)
class LaserD:
    """Adds alpha to right answers within their band's target; `explore` is LASER-DE."""

    alpha: float = 0.5
    explore: bool = False
    every: int = 20
    """Steps between updates of the targets."""
    low_tokens: int = 1024
    """Shortest target; the grid goes on to `high_tokens` by `step_tokens`."""
    high_tokens: int = 16_384
    """Longest target, used until a window is finished."""
    step_tokens: int = 1024
    count: Count = "sampled"
    component: str = COMPONENT
    above: float = CORRECT

    def __post_init__(self) -> None:
        if not 0 < self.low_tokens <= self.high_tokens or self.step_tokens < 1 or self.every < 1:
            raise UserError(
                "laser_d needs 0 < low_tokens <= high_tokens, step_tokens >= 1 and every >= 1"
            )

    @property
    def grid(self) -> tuple[int, ...]:
        """Target lengths to choose from, ascending."""
        below = range(self.low_tokens, self.high_tokens, self.step_tokens)
        return (*below, self.high_tokens)

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Each response is offered to the window of this step, in its group's band."""
        if not group.trajectories:
            return shaped._replace(writes=())
        band = band_of(accuracy(group, self.component, self.above))
        n_b = needed(band, len(group.trajectories))
        target = self.target(band, n_b, history, ctx.step)
        window = ctx.step // self.every
        writes = [
            Write(NAMESPACE, f"{window}/{band}/{self._bucket(t)}", 1.0, "sum", t.uid)
            for t in group.trajectories
        ]
        earned = [self._earned(t, target) for t in group.trajectories]
        return added(shaped, [self.alpha if e else 0.0 for e in earned], writes)

    def target(self, band: Band, n_b: int, history: HistoryStore, step: int) -> int:
        """L_b in tokens, from the newest finished window that saw the band."""
        for window in range(step // self.every - 1, -1, -1):
            keys = {place: f"{window}/{band}/{place}" for place in (*self.grid, 0)}
            seen = {place: history.get(NAMESPACE, key) or 0.0 for place, key in keys.items()}
            total = sum(seen.values())
            if total:
                return target_length(seen, self.grid, total, n_b)
        return self.grid[-1]

    def _bucket(self, trajectory: Trajectory) -> int:
        """The least grid length that fits; 0 when none does."""
        n_tokens = length(trajectory, self.count)
        return next((place for place in self.grid if n_tokens <= place), 0)

    def _earned(self, trajectory: Trajectory, target: int) -> bool:
        fits = length(trajectory, self.count) <= target
        if correct(trajectory, self.component, self.above):
            return fits
        return self.explore and not fits and loop_share(sampled_ids(trajectory)) == 0


__all__ = ["NAMESPACE", "Band", "Laser", "LaserD", "band_of", "needed", "target_length"]
