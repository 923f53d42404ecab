"""Group gates that look at how right a group is.

A gate writes nothing: what it must know of earlier steps it reads in `Ctx.past`. Raw components are
read, never the shaped reward, unless a gate says so. Groups in which the world failed every
trajectory never reach a gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar, Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Divert, Drop, Keep, Need, Verdict
from agentrl.trajectory import Group

Statistic = Literal["mean", "min", "max", "std"]


def accuracy(group: Group, component: str = "env", threshold: float = 0.5) -> float:
    """Share of scored trajectories whose component is above the threshold; NaN-free, 0 when empty."""
    members = group.scored
    correct = sum(t.rewards.get(component, 0.0) > threshold for t in members)
    return correct / len(members) if members else 0.0


def statistic(values: Sequence[float], of: Statistic) -> float:
    """Of at least one value; `std` is the sample's (ddof 1), 0 of a single value."""
    match of:
        case "mean":
            return fmean(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "std":
            return stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class AccuracyBand:
    """Keep groups whose share of correct trajectories lies in a band.

    DAPO's dynamic sampling (2503.14476, section 3.2) is the default, 0 < accuracy < 1; the online
    difficulty filter (2504.03380) is low=0.2, high=0.8, open=False; SimpleTIR (2509.02479) keeps
    0.1 to 0.9.
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
        if not group.scored:
            return Drop("failed")
        share = accuracy(group, self.component, self.threshold)
        at_bound = share in (self.low, self.high)
        if self.low <= share <= self.high and not (self.open and at_bound):
            return Keep()
        return Drop("hard" if share <= self.low else "easy")


@dataclass(frozen=True, slots=True)
class ComponentBand:
    """Keep groups in which a statistic of one component (or the shaped reward) lies in a band.

    SimpleTIR (2509.02479) drops groups of reward std below 1e-3: of=std, low=1e-3.
    """

    of: Statistic = "mean"
    component: str | None = None
    """None: the shaped reward."""
    low: float | None = None
    """Inclusive; None leaves the side open."""
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise UserError("component_band needs algo.gate.low or algo.gate.high")

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Drop reasons: `<statistic>_low`, `<statistic>_high`, `failed`.

        Raises UserError when no trajectory has the component.
        """
        members = group.scored
        if not members:
            return Drop("failed")
        if self.component is None:
            values = [t.reward for t in members if t.reward is not None]
        else:
            values = [t.rewards[self.component] for t in members if self.component in t.rewards]
        if not values:
            raise UserError(
                f"component_band: no trajectory has the reward {self.component or 'shaped'!r}; it "
                f"has {', '.join(sorted(members[0].rewards))}"
            )
        value = statistic(values, self.of)
        if self.low is not None and value < self.low:
            return Drop(f"{self.of}_low")
        if self.high is not None and value > self.high:
            return Drop(f"{self.of}_high")
        return Keep()


@dataclass(frozen=True, slots=True)
class DivertFailed:
    """Send tasks that no trajectory solved to supervised learning (ReLIFT, 2506.07527).

    The queue `sft` collects them until `algo.demos.queue` are there.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"expert", "demonstrations"})

    component: str = "env"
    threshold: float = 0.5
    """A trajectory is correct when its component is above it."""
    demo: str | None = None
    """Only tasks that have this metadata are diverted; None: the expert can show every task."""

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Divert to `sft` with reason `failed_all`, drop as `failed`, or keep."""
        if not group.scored:
            return Drop("failed")
        shown = self.demo is None or group.task.metadata.get(self.demo) is not None
        if shown and accuracy(group, self.component, self.threshold) == 0.0:
            return Divert("sft", "failed_all")
        return Keep()


__all__ = [
    "AccuracyBand",
    "ComponentBand",
    "DivertFailed",
    "Statistic",
    "accuracy",
    "statistic",
]
