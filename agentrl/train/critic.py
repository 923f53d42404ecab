"""The critic of PPO: a value of every state the policy acted in.

`separate`: a causal LM of its own, with its own optimiser (Open-Reasoner-Zero, 2503.24290; ReTool).
`shared`: a linear head on the policy's own states, trained in the policy's step with a coefficient
(1707.06347, equation 9). The value of the state before token t stands at index t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.algo.value_loss import value_losses
from agentrl.errors import UserError
from agentrl.model_path import model_path
from agentrl.train.causal_lm import CausalLM
from agentrl.train.learner_state import under
from agentrl.train.optimizer import AdamWOptions, NamedAdamW


@dataclass(frozen=True, slots=True)
class CriticOptions:
    """`learner.critic.*`."""

    trunk: Literal["separate", "shared"] = "separate"
    """Its own model, or a head on the policy's states."""
    path: str | None = None
    """Where a separate trunk starts from; null takes the policy's weights."""
    lr: float | None = None
    """Of a separate trunk; null takes the learner's."""
    coef: float = 0.5
    """Weight of a shared trunk's value loss in the policy's."""
    clip: float | None = None
    """How far a value may move from where it was before the update; null leaves it free."""
    minibatches: int = 1
    """Optimiser steps of a separate trunk per batch."""
    warmup_updates: int = 0
    """First updates in which only the critic learns."""

    def __post_init__(self) -> None:
        if self.trunk == "shared" and (self.path is not None or self.lr is not None):
            raise UserError("learner.critic.path and lr belong to trunk=separate")
        if self.coef <= 0 or self.minibatches < 1 or self.warmup_updates < 0:
            raise UserError(
                "learner.critic needs coef > 0, minibatches >= 1 and warmup_updates >= 0, not "
                f"{self.coef}, {self.minibatches} and {self.warmup_updates}"
            )
        if self.clip is not None and self.clip <= 0:
            raise UserError(f"learner.critic.clip is above 0, not {self.clip}")


def teach(values: Tensor, batch: Batch, clip: float | None) -> Tensor:
    """A micro-batch's share of the token-mean loss of values [B, T] against `batch.returns`.

    Raises UserError when the advantage made no returns.
    """
    if batch.returns is None or batch.values is None:
        raise UserError(
            "a critic needs an advantage that makes returns; set algo.advantage.name=gae"
        )
    losses = value_losses(values, batch.values, batch.returns, clip=clip)
    return losses.masked_fill(~batch.mask, 0.0).sum() / max(batch.n_tokens, 1)


class Critic:
    """The value of states, by a head on the policy or on a causal LM of its own."""

    def __init__(
        self,
        options: CriticOptions,
        policy: CausalLM,
        load: Callable[[str | Path], CausalLM],
        optimizer: AdamWOptions,
        micro_tokens: int,
    ) -> None:
        """`load` makes a separate trunk, `optimizer` is the learner's, whose lr it may replace."""
        self.options = options
        self._micro_tokens = micro_tokens
        self.shared = options.trunk == "shared"
        path = policy.path if options.path is None else model_path(options.path)
        self.lm = policy if self.shared else load(path)
        """The model whose value head this is."""
        self._head = self.lm.add_value_head()
        self._optimizer: NamedAdamW | None = None
        if not self.shared:
            lr = optimizer.lr if options.lr is None else options.lr
            self._optimizer = NamedAdamW(self.lm.named_parameters(), replace(optimizer, lr=lr))

    def taught(self, batch: Batch) -> dict[str, float]:
        """Metrics of the critic after an update of `batch`: a separate trunk's is made here."""
        if batch.values is None or batch.returns is None:
            return {}
        explained = explained_variance(batch.values[batch.mask], batch.returns[batch.mask])
        metrics = {"critic/explained_variance": explained}
        if self._optimizer is not None and batch.n_tokens:
            metrics.update(self._update(batch, self._optimizer))
        return metrics

    def _update(self, batch: Batch, optimizer: NamedAdamW) -> Mapping[str, float]:
        """One pass over the batch in `minibatches` steps."""
        total, norms = 0.0, list[float]()
        parts = [part.batch for part in batch.minibatches(self.options.minibatches)]
        for part in parts:
            for micro in self.lm.micro_batches(part, self._micro_tokens):
                own = micro.batch.to(self.lm.device)
                share = teach(self.lm.values(own, own.mask), own, self.options.clip)
                share.backward()  # pyright: ignore[reportUnknownMemberType] (untyped in torch)
                total += float(share.detach())
            norms.append(optimizer.step()[0])
        return {
            "critic/loss": total / len(parts),
            "critic/grad_norm": sum(norms) / len(norms),
            "critic/lr": optimizer.lr,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it beside the policy, live."""
        head = {f"head.{name}": value for name, value in self._head.state_dict().items()}
        if self._optimizer is None:
            return head
        own = {f"model.{name}": value for name, value in self.lm.tensors().items()}
        moments = {f"optimizer.{name}": v for name, v in self._optimizer.tensors().items()}
        return {**own, **head, **moments, "n_steps": torch.tensor(self._optimizer.n_steps)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave. Raises UserError when it is of another model."""
        self._head.load_state_dict(under("head", tensors))
        if self._optimizer is None:
            return
        self.lm.assign(under("model", tensors))
        n_steps, lr = int(tensors["n_steps"]), self._optimizer.base_lr
        self._optimizer.restore(under("optimizer", tensors), n_steps=n_steps, base_lr=lr)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - var(returns - values) / var(returns) over [N] tokens; 0 when the returns do not vary."""
    spread = float(returns.var(correction=0)) if len(returns) else 0.0
    if spread == 0:
        return 0.0
    return 1 - float((returns - values).var(correction=0)) / spread


__all__ = ["Critic", "CriticOptions", "explained_variance", "teach"]
