"""The KL penalty inside the reward, as PPO for language models and REINFORCE++ have it.

R_t <- R_t - beta (log pi(x_t) - log pi_ref(x_t)) at every policy token, without gradient (2203.02155,
section 3.5). The adaptive controller steers beta towards a target KL (1909.08593, section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from agentrl.algo.aux.kl import adapted, kl_estimate
from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import Ctx, Need

COEF, KL = "reward_kl/coef", "reward_kl/kl"
"""Metrics; the controller's state is those of the previous step."""


@dataclass(frozen=True, slots=True)
class RewardKL:
    """`algo.reward_kl`."""

    coef: float
    target: float | None = None
    horizon: float = 10_000.0
    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})

    def __call__(self, batch: Batch, ctx: Ctx) -> tuple[Batch, Mapping[str, float]]:
        """The batch with penalised token rewards; needs its old and reference logprobs."""
        if batch.ref_logprobs is None or batch.old_logprobs is None:
            raise UserError("a KL penalty needs a reference model; set learner.reference=true")
        coef = self._present(ctx, batch.n_sequences)
        k1 = kl_estimate(batch.old_logprobs, batch.ref_logprobs, "k1").masked_fill(~batch.mask, 0.0)
        earned = 0.0 if batch.token_rewards is None else batch.token_rewards
        found = float(k1.sum()) / max(batch.n_tokens, 1)
        return replace(batch, token_rewards=earned - coef * k1), {COEF: coef, KL: found}

    def _present(self, ctx: Ctx, n_sequences: int) -> float:
        """This step's coefficient: the last one, steered by the KL it led to."""
        if self.target is None or COEF not in ctx.metrics:
            return self.coef
        return adapted(
            ctx.metrics[COEF],
            ctx.metrics[KL],
            target=self.target,
            n=n_sequences,
            horizon=self.horizon,
        )


__all__ = ["COEF", "KL", "RewardKL"]
