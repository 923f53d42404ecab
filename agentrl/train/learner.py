"""The learner contract: owns parameters and optimiser, turns batches into updates.

A learner is used from one thread. `version` grows by one whenever the weights change, so the engine
is told `begin_update(learner.version)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agentrl.engine.base import Bucket
from agentrl.points import AuxTerm, Ctx, PolicyLoss, ScoredModel
from agentrl.transcript import Float32Array, Int32Array

if TYPE_CHECKING:
    from torch import Tensor

    from agentrl.algo.loss import Aggregate
    from agentrl.algo.offpolicy import Correction
    from agentrl.algo.types import Batch


@runtime_checkable
class Learner(Protocol):
    """Found by name under `agentrl.learners`."""

    @property
    def version(self) -> int:
        """Policy version of the weights; what `export` hands over."""
        ...

    @property
    def lr(self) -> float:
        """The rate the next optimiser step runs at."""
        ...

    @property
    def pad_id(self) -> int:
        """An id to fill rows with; nothing reads it."""
        ...

    def logprobs(self, batch: Batch, tokens: Tensor | None = None) -> Tensor:
        """f32 [B, T], without gradient, under each token's temperature.

        `tokens` bool [B, T] chooses what is scored (default: the mask); the rest is 0.
        """
        ...

    def score(self, token_ids: Int32Array, temperature: float = 1.0) -> Float32Array:
        """Logprobs [t] of a fixed row, entry 0 is 0.0: `Engine.score` under the learner's weights."""
        ...

    def score_rows(self, model: ScoredModel, rows: Sequence[Sequence[int]]) -> list[Float32Array]:
        """Logprobs [t] of every row under a model it holds, at temperature 1, entry 0 is 0.0.

        Raises UserError when it holds no such model.
        """
        ...

    def snapshot_reference(self) -> None:
        """Freeze the current weights as the reference model."""
        ...

    def move_reference(self, rate: float) -> None:
        """The reference becomes (1 - rate) policy + rate reference. Raises UserError without one."""
        ...

    def prepared(self, batch: Batch) -> Batch:
        """The batch with what the models beside the policy say of it.

        Fills in `ref_logprobs`, `teacher_logprobs` and `values` where it holds a reference, a
        teacher and a critic.
        """
        ...

    def update(
        self,
        batch: Batch,
        *,
        loss: PolicyLoss,
        aggregate: Aggregate,
        ctx: Ctx,
        aux: Mapping[str, AuxTerm] | None = None,
        correction: Correction | None = None,
        minibatches: int = 1,
    ) -> Mapping[str, float]:
        """One pass over the batch in `minibatches` optimiser steps; returns metrics.

        `batch.advantages` is set. `aux` names the auxiliary terms: their losses are reported as
        `loss/<name>`, and `ctx.patch.scales` may scale them, or the policy's.
        The result does not depend on how the batch is cut into micro-batches.
        Raises RunFailed after three steps in a row whose gradient was not finite.
        """
        ...

    def sft_update(self, batch: Batch, lr: float | None = None) -> Mapping[str, float]:
        """One optimiser step of mean cross-entropy on the DEMO tokens; `lr` is this step's own."""
        ...

    def export(self) -> Iterator[Bucket]:
        """The weights for an engine, tied ones under every name; entered by all ranks."""
        ...

    def set_lr(self, lr: float) -> None:
        """Change the base learning rate; warm-up and decay still apply to it."""
        ...

    def reset_optimizer(self) -> None:
        """Forget the optimiser's moments; steps already counted stay counted."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything `load` needs into an existing folder, the weights and the tokenizer as a
        Hugging Face folder `model` inside it."""
        ...

    def load(self, folder: Path) -> None:
        """Go on exactly from `save`. Raises UserError when the folder is of another model."""
        ...


__all__ = ["Learner"]
