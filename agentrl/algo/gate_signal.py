"""DRO's filter (2506.13351): prompts whose reference the policy's reasoning can move.

It reads the logprobs of the reference's tokens that the reward `r3` records for every trajectory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev

from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Drop, Keep, Verdict
from agentrl.seeds import derive
from agentrl.trajectory import Group, Trajectory


@dataclass(frozen=True, slots=True)
class ReasoningSignal:
    """Drop prompts out of reach, and prompts whose reference no reasoning changes.

    Out of reach: after none of the group's reasonings are the worst `worst` of the reference's
    tokens, on average, among the `top_k` likeliest. No signal: the largest deviation sigma_j of a
    token's logprob over the group is below `min_sigma`. A share `carry` of what would be dropped is
    kept all the same, by a seeded draw per task and step.

    Deviations: ranks cannot be had from a scorer, so a mean logprob of at least -log(top_k) stands
    for them (a token of probability 1/k or more is among the k likeliest); the paper drops the
    lowest sigmas of a round, here a fixed bound does it. The paper's numbers were not found.
    """

    worst: float = 0.1
    """rho: share of the reference's tokens, at least one."""
    top_k: int = 1000
    min_sigma: float = 0.0
    carry: float = 0.1
    component: str = "r3/logp"
    """Component of token j is `<component>/<j>`, j from 0."""

    def __post_init__(self) -> None:
        if not 0 < self.worst <= 1 or self.top_k < 1 or not 0 <= self.carry <= 1:
            raise UserError("reasoning_signal needs 0 < worst <= 1, top_k >= 1 and 0 <= carry <= 1")

    def __call__(self, group: Group, history: HistoryStore, ctx: Ctx) -> Verdict:
        """Drop reasons: `out_of_reach`, `no_signal`, `failed`. Raises UserError without logprobs."""
        members = group.scored
        if not members:
            return Drop("failed")
        rows = [self.logprobs(trajectory) for trajectory in members]
        best = max(self.reach(row) for row in rows)
        sigma = max(pstdev(column) for column in zip(*rows, strict=True))
        draw = derive("carry", ctx.seed, ctx.step, group.task.id) / 2**63
        if draw < self.carry:
            return Keep()
        if best < -math.log(self.top_k):
            return Drop("out_of_reach")
        return Keep() if sigma >= self.min_sigma else Drop("no_signal")

    def logprobs(self, trajectory: Trajectory) -> list[float]:
        """Of the reference's tokens after this reasoning."""
        found: list[float] = []
        while (value := trajectory.rewards.get(f"{self.component}/{len(found)}")) is not None:
            found.append(value)
        if not found:
            raise UserError(
                f"reasoning_signal: no trajectory has {self.component}/0; add algo.rewards=[{{name: "
                "r3}]"
            )
        return found

    def reach(self, logprobs: list[float]) -> float:
        """Mean logprob of the worst tokens."""
        n = max(1, math.floor(self.worst * len(logprobs)))
        return fmean(sorted(logprobs)[:n])


__all__ = ["ReasoningSignal"]
