"""AdaCtrl (2505.18822): say how hard it is, then be brief where it is easy.

The response opens with `[Easy]` or `[Hard]`. r = r_acc + 0.5 r_tag + 0.5 r_len:
r_acc is +1 / -1; r_tag is 1 when the tag is the golden one, 0 when it is the other, -1 without a
tag; golden is Easy iff the group's accuracy is above 0.625. r_len = (1 + cos(pi t / T)) / 2 for right
answers tagged Easy, else 0; t is the length and T the longest in the group.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, CORRECT, Count, accuracy, added, correct, length, spent
from agentrl.rewards.texts import first_text
from agentrl.trajectory import Group, Trajectory

Tag = Literal["Easy", "Hard"]

_TAG = re.compile(r"\s*\[(Easy|Hard)\]")


def tag_of(trajectory: Trajectory) -> Tag | None:
    """The difficulty the response opens with; None without one."""
    found = _TAG.match(first_text(trajectory))
    if found is None:
        return None
    return "Easy" if found[1] == "Easy" else "Hard"


@dataclass(frozen=True, slots=True)
class AdaCtrl:
    """Replaces the component by r_acc and adds the two terms."""

    right: float = 1.0
    wrong: float = -1.0
    tag: float = 0.5
    """Weight of r_tag."""
    brevity: float = 0.5
    """Weight of r_len."""
    easy: float = 0.625
    """A task is Easy when its group's accuracy is above it."""
    count: Count = "sampled"
    component: str = COMPONENT
    above: float = CORRECT

    def __post_init__(self) -> None:
        if not 0 <= self.easy <= 1:
            raise UserError(f"adactrl.easy is an accuracy in [0, 1], not {self.easy}")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Reads the group's own accuracy and longest response."""
        share = accuracy(group, self.component, self.above)
        golden: Tag = "Easy" if share > self.easy else "Hard"
        longest = max((length(t, self.count) for t in group.trajectories), default=0)
        return added(shaped, [self._change(t, golden, longest) for t in group.trajectories])

    def _change(self, trajectory: Trajectory, golden: Tag, longest: int) -> float:
        ok = correct(trajectory, self.component, self.above)
        tag = tag_of(trajectory)
        change = (self.right if ok else self.wrong) - spent(trajectory, self.component)
        change += self.tag * (-1.0 if tag is None else float(tag == golden))
        if tag == "Easy" and ok and longest:
            share = length(trajectory, self.count) / longest
            change += self.brevity * (1 + math.cos(math.pi * share)) / 2
        return change


__all__ = ["AdaCtrl", "Tag", "tag_of"]
