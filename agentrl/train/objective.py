"""The loss of one policy update, micro-batch by micro-batch, and what its optimiser steps gave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from agentrl.algo.aux import Supervised
from agentrl.algo.loss import Aggregate, TokenScores
from agentrl.algo.offpolicy import Correction, denominators
from agentrl.algo.types import Batch, ForwardOutput, MicroBatch, OwnTokens, OwnWeights
from agentrl.errors import UserError
from agentrl.points import AuxTerm, Ctx, PolicyLoss
from agentrl.train.critic import CriticOptions, teach
from agentrl.train.token_log import TokenLog

Loss = Callable[[MicroBatch, TokenScores], Tensor]
"""A micro-batch and its scores (with gradient) -> its share of the loss."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step, taken or skipped."""

    loss: float
    grad_norm: float
    """Global norm before clipping."""
    stepped: bool
    """False when the gradient was not finite and nothing changed."""


class _Term(NamedTuple):
    """An auxiliary term, taken up for one optimiser step."""

    name: str
    term: AuxTerm
    scale: float
    n_tokens: int
    """Global count of its own tokens."""
    weights: Tensor | None
    """[B, T] of the whole step's batch, for a term that asks for it."""


class Objective:
    """The policy loss with its correction, auxiliary terms and a shared critic, over one update."""

    def __init__(
        self,
        loss: PolicyLoss,
        aggregate: Aggregate,
        aux: Mapping[str, AuxTerm],
        correction: Correction,
        ctx: Ctx,
        log: TokenLog,
        *,
        score: Callable[[Batch, Tensor], Tensor],
        critic: CriticOptions | None = None,
        policy: bool = True,
    ) -> None:
        """Call `start` before each optimiser step, then the objective once per micro-batch.

        `score` gives the present logprobs of chosen tokens; `critic` is that of a shared trunk;
        without `policy` only the critic learns.
        """
        self._loss, self._aggregate = loss, aggregate
        self._aux: Mapping[str, AuxTerm] = aux if policy else {}
        self._correction, self._ctx, self._log = correction, ctx, log
        self._score, self._critic = score, critic
        self._scale = ctx.patch.scales.get("policy", 1.0) if policy else 0.0
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._aux_sums: defaultdict[str, float] = defaultdict(float)
        self._n_tokens = 0

    def start(self, batch: Batch) -> None:
        """Take up the minibatch of the next optimiser step. Raises ValueError without advantages."""
        if batch.advantages is None:
            raise ValueError("the batch has no advantages yet")
        self._n_tokens += batch.n_tokens
        own = {n: t.tokens(batch) for n, t in self._aux.items() if isinstance(t, OwnTokens)}
        self.wanted = batch.mask.clone()
        """bool [B, T]: tokens that the policy term or an auxiliary term needs scored."""
        for mask in own.values():
            self.wanted |= mask
        counts = {name: int(mask.sum()) for name, mask in own.items()}
        weights = self._own_weights(batch)
        self._terms = [
            _Term(
                name,
                term,
                self._ctx.patch.scales.get(name, 1.0),
                counts.get(name, batch.n_tokens),
                weights.get(name),
            )
            for name, term in self._aux.items()
        ]
        own_loss = (
            self._loss.weights(batch, self._ctx) if isinstance(self._loss, OwnWeights) else None
        )
        self._loss_weights = own_loss
        self._weights: Tensor | None = None
        if batch.old_logprobs is not None:
            against = denominators(batch, batch.old_logprobs, self._correction)
            self._weights = self._correction.weights(
                against.old, against.behaviour, batch.mask, batch.trajectory_index
            )

    def _own_weights(self, batch: Batch) -> dict[str, Tensor]:
        asking = {n: t for n, t in self._aux.items() if isinstance(t, OwnWeights)}
        if not asking:
            return {}
        now = replace(batch, old_logprobs=self._score(batch, self.wanted))
        return {name: term.weights(now, self._ctx).detach() for name, term in asking.items()}

    def __call__(self, micro: MicroBatch, scores: TokenScores) -> Tensor:
        """The micro-batch's share of the step's loss, with gradient."""
        device = scores.logprobs.device
        batch = micro.batch.to(device)
        advantages = batch.advantages
        assert advantages is not None
        before = scores.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        against = denominators(batch, before, self._correction)
        if self._weights is None:
            weights = self._correction.weights(against.old, against.behaviour, batch.mask)
        else:
            weights = micro.take(self._weights).to(device)
        losses, metrics = self._loss(scores.logprobs, against.old, advantages, batch.mask)
        if self._loss_weights is not None:
            losses = losses * micro.take(self._loss_weights).to(device)
        policy = self._aggregate(losses * weights, batch)
        self._aux_sums["loss/policy"] += float(policy.detach())
        for name, value in metrics.items():
            self._sums[name] += float(value)
        total = self._scale * policy + self._shared_critic(batch, scores)
        for term in self._terms:
            total = total + term.scale * self._share(term, micro, batch, scores)
        self._log.add(
            batch,
            learner=before,
            against=against,
            weights=weights,
            entropies=scores.entropies,
            advantages=advantages,
        )
        return total

    def _share(self, term: _Term, micro: MicroBatch, batch: Batch, scores: TokenScores) -> Tensor:
        own = None if term.weights is None else micro.take(term.weights).to(scores.logprobs.device)
        output = ForwardOutput(scores.logprobs, scores.entropies, term.n_tokens, own)
        share, metrics = term.term(output, batch, self._ctx)
        self._aux_sums[f"loss/{term.name}"] += float(share.detach())
        for name, value in metrics.items():
            self._aux_sums[name] += float(value)
        return share

    def _shared_critic(self, batch: Batch, scores: TokenScores) -> Tensor:
        if self._critic is None or scores.values is None:
            return scores.logprobs.new_zeros(())
        loss = teach(scores.values, batch, self._critic.clip)
        self._aux_sums["critic/loss"] += float(loss.detach())
        return self._critic.coef * loss

    def summary(self, n_steps: int) -> dict[str, float]:
        """Metrics of the update: means over its tokens, auxiliary terms' over its steps."""
        per_token = {name: total / max(self._n_tokens, 1) for name, total in self._sums.items()}
        per_step = {name: total / max(n_steps, 1) for name, total in self._aux_sums.items()}
        return per_token | per_step | dict(self._log.summary(self._correction))


class DemoObjective:
    """The supervised loss of one batch: a mean over its DEMO tokens."""

    def __init__(self, batch: Batch) -> None:
        """Raises UserError for a batch without a DEMO token."""
        self.batch = replace(batch, temperatures=torch.ones_like(batch.temperatures))
        """The batch at temperature 1, whatever its segments say."""
        self._term = Supervised()
        self.wanted = self._term.tokens(self.batch)
        """bool [B, T]: the DEMO tokens."""
        self._n_tokens = int(self.wanted.sum())
        if not self._n_tokens:
            raise UserError("no DEMO token in the batch; a supervised update needs expert text")
        self._entropy = 0.0

    def __call__(self, micro: MicroBatch, scores: TokenScores) -> Tensor:
        """The micro-batch's share of the loss, with gradient."""
        self._entropy += float(scores.entropies.detach().sum())
        output = ForwardOutput(scores.logprobs, scores.entropies, self._n_tokens)
        return self._term(output, micro.batch.to(scores.logprobs.device), _NO_CTX)[0]

    def summary(self) -> dict[str, float]:
        """Metrics of the update: tokens, and their mean entropy."""
        return {"n_tokens": float(self._n_tokens), "entropy": self._entropy / self._n_tokens}


def summary(steps: Sequence[Step]) -> dict[str, float]:
    """Metrics of optimiser steps: mean loss, mean norm of those taken, and how many were not."""
    if not steps:
        return {"optimizer_steps": 0.0, "skipped_steps": 0.0}
    finite = [step.grad_norm for step in steps if step.stepped]
    metrics = {
        "loss": sum(step.loss for step in steps) / len(steps),
        "optimizer_steps": float(len(finite)),
        "skipped_steps": float(len(steps) - len(finite)),
    }
    return metrics | ({"grad_norm": sum(finite) / len(finite)} if finite else {})


_NO_CTX = Ctx(step=0, total_steps=0, seed=0)

__all__ = ["DemoObjective", "Loss", "Objective", "Step", "summary"]
