"""Group gates: which shaped groups are worth a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Drop, Keep, Verdict
from agentrl.trajectory import Group


@dataclass(frozen=True, slots=True)
class AccuracyBand:
    """Keep groups whose share of correct trajectories lies in a band.

    DAPO's dynamic sampling (2503.14476, section 3.2) is the default, 0 < accuracy < 1; the online
    difficulty filter (2504.03380) is low=0.2, high=0.8, open=False. Reads the raw component, never
    the shaped reward.
    """

    low: float = 0.0
    high: float = 1.0
    open: bool = True
    """True: the bounds themselves are outside."""
    component: str = "env"
    threshold: float = 0.5
    """A trajectory is correct when its component is above it."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise UserError(
                f"accuracy_band needs 0 <= low < high <= 1, not {self.low} and {self.high}"
            )

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Drop reasons: `easy`, `hard`, `failed` (the world failed every trajectory)."""
        members = group.scored
        if not members:
            return Drop("failed")
        correct = sum(t.rewards.get(self.component, 0.0) > self.threshold for t in members)
        accuracy = correct / len(members)
        at_bound = accuracy in (self.low, self.high)
        if self.low <= accuracy <= self.high and not (self.open and at_bound):
            return Keep()
        return Drop("hard" if accuracy <= self.low else "easy")


__all__ = ["AccuracyBand"]
