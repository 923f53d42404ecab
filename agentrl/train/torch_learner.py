"""The learner for one device: forward, backward, accumulate, clip, step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from agentrl.algo.loss import Aggregate
from agentrl.algo.offpolicy import OFF, Correction, keep
from agentrl.algo.types import Batch
from agentrl.engine.base import Bucket
from agentrl.engine.device import chosen_device
from agentrl.errors import RunFailed, UserError
from agentrl.model_path import model_path
from agentrl.points import AuxTerm, Ctx, PolicyLoss, ScoredModel
from agentrl.train.buckets import buckets
from agentrl.train.causal_lm import CausalLM, Precision
from agentrl.train.critic import Critic, CriticOptions
from agentrl.train.frozen import FrozenModels
from agentrl.train.learner_state import MODEL, LearnerState
from agentrl.train.objective import DemoObjective, Loss, Objective, Step, summary
from agentrl.train.optimizer import AdamWOptions, NamedAdamW
from agentrl.train.packing import Tally
from agentrl.train.scoring import Scoring, determinism
from agentrl.train.token_log import TokenLog
from agentrl.transcript import Float32Array, Int32Array

MAX_SKIPPED = 3
"""Steps in a row without a finite gradient that end the run."""


class TorchLearner:
    """One Hugging Face causal LM and its AdamW on one device.

    fp32 weights and moments; `dtype=bfloat16` runs the products in bf16 under autocast. What rows of
    a micro-batch begin with together is computed once, so micro-batches hold neighbouring branches
    and at most `micro_tokens` computed tokens; where little is shared they are sorted by length and
    padded. Only trained tokens reach the output layer.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        lr: float = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        warmup_steps: int = 0,
        decay_steps: int | None = None,
        dtype: Precision = "float32",
        micro_tokens: int = 4096,
        device: str = "auto",
        activation_checkpointing: bool = False,
        shared_prefixes: bool = True,
        reference: bool = False,
        teacher: str | None = None,
        critic: CriticOptions | None = None,
        deterministic: bool | None = None,
        seed: int = 0,
    ) -> None:
        """`reference` freezes the loaded weights for terms that compare with them; `teacher` is
        another model with the same vocabulary; `critic` adds a value of each state. `deterministic`
        None means: on the CPU, where it costs nothing. `device` auto takes the GPU where there is one.
        `shared_prefixes` false computes every row from its beginning, as a model that cannot do
        otherwise always does: layers with a window or a state, or an attention of their own.

        Raises UserError when there is no model at a path or a setting is out of range.
        """
        if micro_tokens < 1:
            raise UserError(f"learner.micro_tokens is a number of tokens, not {micro_tokens}")
        options = AdamWOptions(
            lr=lr,
            betas=(betas[0], betas[1]),
            eps=eps,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            warmup_steps=warmup_steps,
            decay_steps=decay_steps,
        )
        device = chosen_device(device)
        deterministic = device == "cpu" if deterministic is None else deterministic
        if deterministic and device != "cpu":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType] (untyped in torch)
        load = partial(
            CausalLM,
            precision=dtype,
            device=device,
            activation_checkpointing=activation_checkpointing,
            shared_prefixes=shared_prefixes,
        )
        self._lm = load(model)
        self._critic: Critic | None = None
        if critic is not None:
            self._critic = Critic(critic, self._lm, load, options, micro_tokens)
        self._optimizer = NamedAdamW(self._lm.named_parameters(), options)
        self._scoring = Scoring(micro_tokens, deterministic)
        self._frozen = FrozenModels(
            self._lm, None if teacher is None else load(model_path(teacher))
        )
        self._version = 0
        self._updates = 0
        self._skipped = 0
        if reference:
            self.snapshot_reference()

    @property
    def version(self) -> int:
        """Updates whose weights changed, of this and the resumed runs."""
        return self._version

    @property
    def lr(self) -> float:
        """The rate the next optimiser step runs at."""
        return self._optimizer.lr

    @property
    def pad_id(self) -> int:
        """An id to fill rows with; nothing reads it."""
        return self._lm.pad_id

    @property
    def n_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for _, p in self._lm.named_parameters())

    @property
    def flat_because(self) -> str | None:
        """Why shared prefixes are computed once per row; None where they are computed once."""
        return self._lm.flat_because

    def logprobs(self, batch: Batch, tokens: Tensor | None = None) -> Tensor:
        """See `Learner.logprobs`."""
        return self._scoring.logprobs(self._lm, batch, batch.mask if tokens is None else tokens)

    def score(self, token_ids: Int32Array, temperature: float = 1.0) -> Float32Array:
        """See `Learner.score`."""
        return self._scoring.rows(self._lm, [list(token_ids)], temperature)[0]

    def score_rows(self, model: ScoredModel, rows: Sequence[Sequence[int]]) -> list[Float32Array]:
        """See `Learner.score_rows`."""
        return self._scoring.rows(self._frozen.of(model), rows)

    def snapshot_reference(self) -> None:
        """See `Learner.snapshot_reference`."""
        self._frozen.snapshot_reference()

    def move_reference(self, rate: float) -> None:
        """See `Learner.move_reference`."""
        self._frozen.move_reference(rate)

    def prepared(self, batch: Batch) -> Batch:
        """See `Learner.prepared`."""
        batch = self._frozen.prepared(batch, lambda lm, b: self._scoring.logprobs(lm, b, b.mask))
        if self._critic is None or batch.values is not None:
            return batch
        return replace(batch, values=self._scoring.values(self._critic.lm, batch))

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
        """See `Learner.update`.

        With one minibatch the logprobs before the update are those of the update's own forward, so
        none is spent on them. In a critic's first `warmup_updates` only it learns.
        """
        correction = correction or OFF
        lr = self.lr
        batch = self.prepared(batch)
        critic = self._critic
        warming = critic is not None and self._updates < critic.options.warmup_updates
        parts = batch.minibatches(minibatches)
        if batch.old_logprobs is None and (len(parts) > 1 or correction.needs_whole(batch)):
            batch = replace(batch, old_logprobs=self.logprobs(batch))
        batch, rejections = keep(batch, correction)
        parts = batch.minibatches(minibatches)
        objective = Objective(
            loss,
            aggregate,
            aux or {},
            correction,
            ctx,
            TokenLog(self.version),
            score=self.logprobs,
            critic=critic.options if critic is not None and critic.shared else None,
            policy=not warming,
        )
        self._lm.tally = Tally()
        steps: list[Step] = []
        if not (warming and critic is not None and not critic.shared):
            for part in parts:
                if part.batch.n_tokens:
                    objective.start(part.batch)
                    steps.append(self._step(part.batch, objective.wanted, objective))
        self._version += any(step.stepped for step in steps)
        self._updates += 1
        metrics = objective.summary(len(steps)) | summary(steps)
        if critic is not None:
            metrics |= critic.taught(batch)
        return metrics | {
            **rejections,
            "lr": lr,
            "n_tokens": float(batch.n_tokens),
            "n_sequences": float(batch.n_sequences),
            "masked_rows": float(batch.n_masked_rows),
            "shared_prefixes": float(self.flat_because is None),
            "shared_prefix_ratio": self._lm.tally.ratio,
        }

    def sft_update(self, batch: Batch, lr: float | None = None) -> Mapping[str, float]:
        """See `Learner.sft_update`. Scored at temperature 1, whatever the segments say."""
        objective = DemoObjective(batch)
        base = self._optimizer.base_lr
        self._optimizer.base_lr = base if lr is None else lr
        used = self._optimizer.lr
        step = self._step(objective.batch, objective.wanted, objective)
        self._optimizer.base_lr = base
        self._version += step.stepped
        return summary([step]) | objective.summary() | {"lr": used}

    def export(self) -> Iterator[Bucket]:
        """See `Learner.export`. Live views: the engine copies what it keeps."""
        return buckets(self._lm.tensors())

    def set_lr(self, lr: float) -> None:
        """See `Learner.set_lr`."""
        self._optimizer.base_lr = lr

    def reset_optimizer(self) -> None:
        """See `Learner.reset_optimizer`."""
        self._optimizer.reset()

    def state(self) -> LearnerState:
        """A copy of everything that decides the next update."""
        reference = self._frozen.reference
        return LearnerState(
            model=_copied(self._lm.tensors()),
            optimizer=_copied(self._optimizer.tensors()),
            reference=None if reference is None else _copied(reference.tensors()),
            critic={} if self._critic is None else _copied(self._critic.tensors()),
            rng=torch.get_rng_state(),
            version=self._version,
            n_updates=self._updates,
            n_steps=self._optimizer.n_steps,
            n_skipped=self._skipped,
            base_lr=self._optimizer.base_lr,
        )

    def restore(self, state: LearnerState) -> None:
        """Go on exactly from `state`. Raises UserError when it is of another model."""
        self._lm.assign(dict(state.model))
        self._optimizer.restore(state.optimizer, n_steps=state.n_steps, base_lr=state.base_lr)
        self._frozen.reference = None
        if state.reference is not None:
            self.snapshot_reference()
            self._frozen.of("ref").assign(dict(state.reference))
        if self._critic is not None:
            self._critic.restore(state.critic)
        torch.set_rng_state(state.rng)
        self._version, self._skipped = state.version, state.n_skipped
        self._updates = state.n_updates

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        self._lm.save(folder / MODEL)
        self.state().write(folder)

    def load(self, folder: Path) -> None:
        """See `Learner.load`."""
        self.restore(LearnerState.read(folder, self._lm.tensors()))

    def _step(self, batch: Batch, tokens: Tensor, loss: Loss) -> Step:
        """Accumulate the gradient over micro-batches, then one optimiser step."""
        total = 0.0
        with determinism(self._scoring.deterministic):
            for micro in self._lm.micro_batches(batch, self._scoring.micro_tokens, tokens):
                share = loss(micro, self._lm.scores(micro.batch, micro.take(tokens)))
                if share.requires_grad:
                    share.backward()  # pyright: ignore[reportUnknownMemberType] (untyped in torch)
                total += float(share.detach())
            norm, stepped = self._optimizer.step()
        self._skipped = 0 if stepped else self._skipped + 1
        if self._skipped >= MAX_SKIPPED:
            raise RunFailed(
                f"the gradient was not finite in {MAX_SKIPPED} steps in a row (loss {total:g}); "
                "lower learner.lr, or use dtype=float32"
            )
        return Step(total, norm, stepped)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


__all__ = ["TorchLearner"]
