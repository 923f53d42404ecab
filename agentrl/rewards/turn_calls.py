"""Rewards at the turns: what each call was worth, earned at the last token of the turn that made it.

The turn rewards that MT-GRPO (2505.11821) credits to the turn's own tokens: a call that ran, and a
result that holds the answer. The scalar stays as it is. Use with advantage `mt_grpo`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agentrl.history import HistoryStore
from agentrl.points import Ctx, Shaped
from agentrl.rewards.answer_match import golds
from agentrl.rewards.base import with_tokens
from agentrl.rewards.texts import turn_ends
from agentrl.trajectory import CallRecord, Group, Trajectory
from agentrl.transcript import Float32Array, floats_array
from agentrl.verify.text_answer import contains_match


@dataclass(frozen=True, slots=True)
class TurnCalls:
    """Adds token rewards for every call in the ledger."""

    success: float = 0.2
    """Of a call without an error."""
    failure: float = 0.0
    """Of one with an error, unreadable ones included."""
    found: float = 0.0
    """On top, when what came back contains a gold answer."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        return with_tokens(group, shaped, [self._placed(t) for t in group.trajectories])

    def _placed(self, trajectory: Trajectory) -> Float32Array:
        rewards = np.zeros(trajectory.n_tokens)
        ends = turn_ends(trajectory)
        wanted = golds(trajectory.task)
        for call in trajectory.calls:
            if ends:
                rewards[ends[min(call.turn, len(ends) - 1)]] += self._worth(call, wanted)
        return floats_array(rewards)

    def _worth(self, call: CallRecord, wanted: list[str]) -> float:
        if call.error is not None:
            return self.failure
        return self.success + (self.found if contains_match(call.content, wanted) else 0.0)


__all__ = ["TurnCalls"]
