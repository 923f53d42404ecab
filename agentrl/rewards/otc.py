"""OTC-PO (2504.14870): a correct answer is worth more the fewer tool calls it took.

The coefficient multiplies the correctness reward, so that a wrong answer earns nothing for being
frugal. m is the number of calls the environment executed.

PPO form:  r_tool = cos(m pi / (2 m + c)).
GRPO form: n is the least m among correct trajectories of the task, over all steps and this group;
    f = 2 m n / (m + n);  r_tool = 1 if m = n = 0, the PPO form if n = 0, else sin(f pi / (2 n)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.points import Ctx, Shaped
from agentrl.rewards.base import COMPONENT, CORRECT, correct
from agentrl.trajectory import Group
from agentrl.transcript import floats_array

NAMESPACE = "otc.min_calls"
"""HistoryStore namespace: task id -> least calls of a correct trajectory."""

WINDOW = 8
"""Steps whose mean accuracy is compared: that of one step is noise."""

Form = Literal["ppo", "grpo"]


def tool_reward(n_calls: int, least: int | None, *, form: Form = "grpo", c: float = 1.0) -> float:
    """r_tool in [0, 1] of a trajectory with `n_calls` calls, `least` being n (None: unknown).

    With n known, 1 exactly at m = n and less on both sides.
    """
    m = n_calls
    if form == "ppo" or least == 0:
        return math.cos(m * math.pi / (2 * m + c))
    if least is None:
        return 1.0
    return math.sin(2 * m * least / (m + least) * math.pi / (2 * least))


def accuracy_lost(past: Sequence[Mapping[str, float]]) -> float:
    """How far the mean accuracy of the last `WINDOW` steps is below the best such mean before it."""
    values = [step["accuracy"] for step in past if "accuracy" in step]
    means = [fmean(values[i : i + WINDOW]) for i in range(len(values) - WINDOW + 1)]
    return max(means) - means[-1] if means else 0.0


@dataclass(frozen=True, slots=True)
class OTC:
    """Multiplies one component by alpha r_tool; the other components stay as they are.

    A component of 0 stays 0, and a negative one (a penalty for being wrong) is left alone: scaling
    it would reward waste.
    """

    form: Form = "grpo"
    c: float = 1.0
    """Smoothness of the PPO form; larger is more lenient."""
    alpha: float = 1.0
    component: str = COMPONENT
    above: float = CORRECT
    """A trajectory sets n only when its component is above this."""
    keep: float | None = None
    """Accuracy that frugality may cost: calls cost nothing while the mean accuracy of the last
    `WINDOW` steps is more than this below the best such mean before. None, the paper's, never rests,
    and calls that most tasks do not need may vanish where they are needed."""

    def __post_init__(self) -> None:
        if self.c <= 0 or self.alpha <= 0:
            raise UserError(f"otc needs c > 0 and alpha > 0, not {self.c} and {self.alpha}")
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise UserError(f"otc.keep is an accuracy in 0 to 1, not {self.keep:g}")

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """n is min(committed view, this group); the group's correct minima are offered."""
        winners = [t for t in group.trajectories if correct(t, self.component, self.above)]
        seen = history.get(NAMESPACE, group.task.id)
        known = [t.n_calls for t in winners] + ([] if seen is None else [int(seen)])
        least = min(known, default=None)
        resting = self.keep is not None and accuracy_lost(ctx.past) > self.keep
        rewards = [
            float(reward) + self._change(trajectory.rewards.get(self.component, 0.0), m, least)
            if not resting
            else float(reward)
            for reward, trajectory in zip(shaped.rewards_G, group.trajectories, strict=True)
            for m in [trajectory.n_calls]
        ]
        writes = tuple(
            Write(NAMESPACE, group.task.id, float(t.n_calls), "min", t.uid) for t in winners
        )
        return shaped._replace(rewards_G=floats_array(rewards), writes=writes)

    def _change(self, component: float, n_calls: int, least: int | None) -> float:
        if component <= 0:
            return 0.0
        r_tool = tool_reward(n_calls, least, form=self.form, c=self.c)
        return component * (self.alpha * r_tool - 1)


__all__ = ["NAMESPACE", "OTC", "Form", "accuracy_lost", "tool_reward"]
