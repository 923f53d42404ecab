"""GiGPO (2505.10978): groups of whole episodes, and inside them groups of steps from equal states."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.actions import discounted
from agentrl.algo.advantage import GRPO, Outcome
from agentrl.algo.credit import sampled, token_rewards
from agentrl.algo.groups import group_normal
from agentrl.algo.tensors import integers
from agentrl.algo.trajectories import Trajectories
from agentrl.algo.turns import Turns
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.transcript import Origin


@dataclass(frozen=True, slots=True)
class GiGPO:
    """A = A_episode + weight * A_step (equation 8).

    A_episode compares the trajectories' total rewards; A_step compares the discounted returns
    R_t = sum over k >= t of gamma^(k - t) r_k of all turns in the group that start in the same
    anchor state (equations 6 and 7). r_k is the sum of a turn's token rewards, the outcome
    counts at the last turn. The anchor state is the observation the turn answers, id by id (for
    a row's first turn the prompt): the one estimator to which observations matter, as identities.
    A state visited once gives A_step = 0.
    """

    weight: float = 1.0
    """The paper's omega."""
    gamma: float = 0.95
    """Discount per turn."""
    base: Outcome = GRPO
    """Makes A_episode; `scale: none` is the paper's other normaliser, for both parts."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise UserError(
                f"advantage.gamma lies in 0..1, not {self.gamma}; use 0.95 as the paper"
            )

    def __call__(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], zero off the mask."""
        found = Trajectories.of_batch(batch)
        episode = self.base.scalars(found.returns, found.groups, found.lengths)
        advantages = found.spread(episode, batch.mask)
        turns = Turns.of_batch(batch)
        if len(turns):
            steps = group_normal(
                self._returns(turns, found, batch),
                anchor_states(turns, found, batch),
                scaled=self.base.scale != "none",
                ddof=self.base.ddof,
                eps=self.base.eps,
                lone="zero",
            )
            advantages = advantages + self.weight * turns.spread(steps, batch.mask)
        return self.base.finished(advantages, batch.mask)

    def _returns(self, turns: Turns, found: Trajectories, batch: Batch) -> Tensor:
        rewards = turns.sums(token_rewards(batch, sampled(batch)))
        rewards = rewards + turns.last * found.outcomes[turns.trajectories]
        table = discounted(turns.table(rewards), self.gamma)
        return table[turns.trajectories, turns.positions]


def anchor_states(turns: Turns, found: Trajectories, batch: Batch) -> Tensor:
    """i64 [K]: turns with the same number are of one group and start from the same state."""
    columns = torch.arange(batch.token_ids.shape[1], device=batch.token_ids.device)
    wrote = torch.where(sampled(batch), columns, -1).cummax(1).values
    previous = wrote[turns.rows, (turns.starts - 1).clamp(min=0)]
    told = (batch.origins == int(Origin.OBSERVATION)) | (batch.origins == int(Origin.PROMPT))
    ids, told = batch.token_ids.cpu().numpy(), (told & batch.attention_mask).cpu().numpy()
    groups = integers(found.groups[turns.trajectories])
    spans = zip(integers(turns.rows), integers(previous), integers(turns.starts), strict=True)
    known: dict[Hashable, int] = {}
    numbers: list[int] = []
    for group, (row, before, start) in zip(groups, spans, strict=True):
        span = slice(before + 1, start)
        state = (group, ids[row, span][told[row, span]].tobytes())
        numbers.append(known.setdefault(state, len(known)))
    return torch.tensor(numbers, device=turns.rows.device)


__all__ = ["GiGPO", "anchor_states"]
