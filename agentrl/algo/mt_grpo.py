"""MT-GRPO (2505.11821): a turn's own reward beside the outcome."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.algo.advantage import GRPO, Outcome
from agentrl.algo.credit import sampled, token_rewards
from agentrl.algo.groups import group_normal
from agentrl.algo.tensors import distinct
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.turns import Turns
from agentrl.algo.types import Batch
from agentrl.points import Ctx


@dataclass(frozen=True, slots=True)
class MTGRPO:
    """A of a turn's tokens = turn * A_turn + outcome * A_outcome; of the last turn's = A_outcome.

    A turn's reward is the sum of its token rewards; A_turn is normalised like `base` scales, over
    the siblings' turns at the same position. The paper has two turns and the factor at the
    outcome; verl-tool has it at the turn. With more turns each is handled as the paper's first.
    A turn that no sibling reached has nothing to compare with and gets A_turn = 0.
    """

    turn: float = 1.0
    """Factor of the turn's advantage."""
    outcome: float = 1.0
    """Factor of the outcome's advantage before the last turn: the paper's lambda."""
    base: Outcome = GRPO
    """Makes the outcome's advantage from the scalar rewards alone; default: GRPO."""

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        found = Trajectories.of_batch(batch)
        outcome = self.base.scalars(found.outcomes, found.groups, found.lengths)
        turns = Turns.of_batch(batch)
        rewards = turns.sums(token_rewards(batch, sampled(batch)))
        if not len(turns):
            return self.base.finished(found.spread(outcome, batch.mask), batch.mask)
        n_positions = int(turns.positions.max()) + 1
        cells = found.groups[turns.trajectories] * n_positions + turns.positions
        own = group_normal(
            rewards,
            distinct(cells).inverse,
            scaled=self.base.scale != "none",
            ddof=self.base.ddof,
            eps=self.base.eps,
            lone="zero",
        )
        of_outcome = outcome[turns.trajectories]
        early = self.turn * own + self.outcome * of_outcome
        values = turns.last * of_outcome + ~turns.last * early
        return self.base.finished(turns.spread(values, batch.mask), batch.mask)


__all__ = ["MTGRPO"]
