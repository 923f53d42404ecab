"""Turn shaping of tool users: a wrong answer costs less the more it tried.

retool_turns, the ReTool recipe of verl (the paper itself, 2504.11536, has +1 / -1 and nothing else)
and DemyAgent's code: right 1; wrong min(-0.6, -1 + 0.1 (num_turns - 2) / 2), num_turns counting the
user's and the observations' messages too, so that (num_turns - 2) / 2 is the turns after the first.
demy_tools, DemyAgent's paper (2510.11701): right 1 + 0.1 n_tool; wrong -1 + 0.1 n_tool, capped.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, CORRECT, added, correct, spent
from agentrl.trajectory import Group


def turn_score(num_turns: int, *, ok: bool, per_turn: float = 0.1, cap: float = -0.6) -> float:
    """The recipe's score; `num_turns` counts messages of both sides."""
    return 1.0 if ok else min(cap, -1 + (num_turns - 2) / 2 * per_turn)


@dataclass(frozen=True, slots=True)
class RetoolTurns:
    """Replaces the component by the turn-shaped score."""

    per_turn: float = 0.1
    """0 is the paper's +1 / -1."""
    cap: float = -0.6
    """A wrong answer earns no more than this."""
    component: str = COMPONENT
    above: float = CORRECT

    def __post_init__(self) -> None:
        if self.per_turn < 0 or not -1 <= self.cap < 1:
            raise UserError("retool_turns needs per_turn >= 0 and -1 <= cap < 1")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        changes: list[float] = []
        for t in group.trajectories:
            ok = correct(t, self.component, self.above)
            turns = 2 * max(1, t.n_turns)
            score = turn_score(turns, ok=ok, per_turn=self.per_turn, cap=self.cap)
            changes.append(score - spent(t, self.component))
        return added(shaped, changes)


@dataclass(frozen=True, slots=True)
class DemyTools:
    """Replaces the component by +-1 plus a bonus per executed call."""

    per_call: float = 0.1
    cap: float = -0.6
    """Of wrong answers; not given in the paper, its code's value."""
    component: str = COMPONENT
    above: float = CORRECT

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        changes: list[float] = []
        for t in group.trajectories:
            bonus = self.per_call * t.n_calls
            ok = correct(t, self.component, self.above)
            score = 1 + bonus if ok else min(self.cap, -1 + bonus)
            changes.append(score - spent(t, self.component))
        return added(shaped, changes)


__all__ = ["DemyTools", "RetoolTurns", "turn_score"]
