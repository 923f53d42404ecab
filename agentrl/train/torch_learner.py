"""The learner for one device: forward, backward, accumulate, clip, step."""

from __future__ import annotations

import copy
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from agentrl.algo.batch import demo_batch
from agentrl.algo.loss import Aggregate
from agentrl.algo.offpolicy import OFF, Correction
from agentrl.algo.types import Batch
from agentrl.engine.base import Bucket
from agentrl.engine.device import chosen_device
from agentrl.errors import RunFailed, UserError
from agentrl.points import AuxTerm, Ctx, PolicyLoss
from agentrl.train.causal_lm import CausalLM, Precision
from agentrl.train.learner_state import MODEL, LearnerState
from agentrl.train.objective import DemoObjective, Loss, Objective, Step, summary
from agentrl.train.optimizer import AdamWOptions, NamedAdamW
from agentrl.train.token_log import TokenLog
from agentrl.transcript import Float32Array, Int32Array, Origin, Segment, Transcript, floats_array

BUCKET_BYTES = 256 * 2**20
"""Size from which `export` starts a new bucket."""
MAX_SKIPPED = 3
"""Steps in a row without a finite gradient that end the run."""


class TorchLearner:
    """One Hugging Face causal LM and its AdamW on one device.

    fp32 weights and moments; `dtype=bfloat16` runs the products in bf16 under autocast. Micro-batches
    of at most `micro_tokens` padded tokens are sorted by length, and only trained tokens reach the
    output layer.
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
        reference: bool = False,
        deterministic: bool | None = None,
        seed: int = 0,
    ) -> None:
        """`reference` freezes the loaded weights for terms that compare with them; `deterministic`
        None means: on the CPU, where it costs nothing. `device` auto takes the GPU where there is one.

        Raises UserError when there is no model at `model` or a setting is out of range.
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
        self._deterministic = device == "cpu" if deterministic is None else deterministic
        if self._deterministic and device != "cpu":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType] (untyped in torch)
        self._lm = CausalLM(
            model,
            precision=dtype,
            device=device,
            activation_checkpointing=activation_checkpointing,
        )
        self._optimizer = NamedAdamW(self._lm.named_parameters(), options)
        self._micro_tokens = micro_tokens
        self._reference: CausalLM | None = None
        self._version = 0
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

    def logprobs(self, batch: Batch, tokens: Tensor | None = None) -> Tensor:
        """See `Learner.logprobs`."""
        return self._scored(self._lm, batch, batch.mask if tokens is None else tokens)

    def score(self, token_ids: Int32Array, temperature: float = 1.0) -> Float32Array:
        """See `Learner.score`."""
        row = Transcript().append(Segment(Origin.PROMPT, token_ids, temperature=temperature))
        batch = demo_batch([row], pad_id=self.pad_id)
        tokens = batch.attention_mask.clone()
        tokens[:, 0] = False
        return floats_array(self._scored(self._lm, batch, tokens)[0].numpy())

    def snapshot_reference(self) -> None:
        """See `Learner.snapshot_reference`."""
        self._reference = copy.copy(self._lm)
        self._reference.model = copy.deepcopy(self._lm.model).requires_grad_(False)

    def ref_logprobs(self, batch: Batch) -> Tensor:
        """See `Learner.ref_logprobs`."""
        if self._reference is None:
            raise UserError("no reference model was kept; set learner.reference=true")
        return self._scored(self._reference, batch, batch.mask)

    def update(
        self,
        batch: Batch,
        *,
        loss: PolicyLoss,
        aggregate: Aggregate,
        ctx: Ctx,
        aux: Sequence[AuxTerm] = (),
        correction: Correction | None = None,
        minibatches: int = 1,
    ) -> Mapping[str, float]:
        """See `Learner.update`.

        Reference logprobs are filled in where a reference is kept and the batch has none. With one
        minibatch the logprobs before the update are those of the update's own forward, so
        none is spent on them.
        """
        correction = correction or OFF
        lr = self.lr
        if batch.ref_logprobs is None and self._reference is not None:
            batch = replace(batch, ref_logprobs=self.ref_logprobs(batch))
        parts = batch.minibatches(minibatches)
        if batch.old_logprobs is None and (len(parts) > 1 or correction.normalize):
            batch = replace(batch, old_logprobs=self.logprobs(batch))
            parts = batch.minibatches(minibatches)
        objective = Objective(loss, aggregate, tuple(aux), correction, ctx, TokenLog(self.version))
        steps: list[Step] = []
        for part in parts:
            if part.batch.n_tokens:
                objective.start(part.batch)
                steps.append(self._step(part.batch, objective.wanted, objective))
        self._version += any(step.stepped for step in steps)
        metrics = objective.summary(len(steps)) | summary(steps)
        return metrics | {
            "lr": lr,
            "n_tokens": float(batch.n_tokens),
            "n_sequences": float(batch.n_sequences),
            "masked_rows": float(batch.n_masked_rows),
        }

    def sft_update(self, batch: Batch) -> Mapping[str, float]:
        """See `Learner.sft_update`. Scored at temperature 1, whatever the segments say."""
        objective = DemoObjective(batch)
        lr = self._optimizer.lr
        step = self._step(objective.batch, objective.wanted, objective)
        self._version += step.stepped
        return summary([step]) | objective.summary() | {"lr": lr}

    def export(self) -> Iterator[Bucket]:
        """See `Learner.export`. Live views: the engine copies what it keeps."""
        bucket: dict[str, Tensor] = {}
        size = 0
        for name, tensor in self._lm.tensors().items():
            bucket[name] = tensor
            size += tensor.numel() * tensor.element_size()
            if size >= BUCKET_BYTES:
                yield bucket
                bucket, size = {}, 0
        if bucket:
            yield bucket

    def set_lr(self, lr: float) -> None:
        """See `Learner.set_lr`."""
        self._optimizer.base_lr = lr

    def reset_optimizer(self) -> None:
        """See `Learner.reset_optimizer`."""
        self._optimizer.reset()

    def state(self) -> LearnerState:
        """A copy of everything that decides the next update."""
        reference = self._reference
        return LearnerState(
            model=_copied(self._lm.tensors()),
            optimizer=_copied(self._optimizer.tensors()),
            reference=None if reference is None else _copied(reference.tensors()),
            rng=torch.get_rng_state(),
            version=self._version,
            n_steps=self._optimizer.n_steps,
            n_skipped=self._skipped,
            base_lr=self._optimizer.base_lr,
        )

    def restore(self, state: LearnerState) -> None:
        """Go on exactly from `state`. Raises UserError when it is of another model."""
        self._lm.assign(dict(state.model))
        self._optimizer.restore(state.optimizer, n_steps=state.n_steps, base_lr=state.base_lr)
        self._reference = None
        if state.reference is not None:
            self.snapshot_reference()
            assert self._reference is not None
            self._reference.assign(dict(state.reference))
        torch.set_rng_state(state.rng)
        self._version, self._skipped = state.version, state.n_skipped

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        self._lm.save(folder / MODEL)
        self.state().write(folder)

    def load(self, folder: Path) -> None:
        """See `Learner.load`."""
        self.restore(LearnerState.read(folder, self._lm.tensors()))

    @torch.no_grad()
    def _scored(self, lm: CausalLM, batch: Batch, tokens: Tensor) -> Tensor:
        result = torch.zeros(batch.token_ids.shape)
        with _determinism(self._deterministic):
            for micro in batch.micro_batches(self._micro_tokens, tokens):
                scored = lm.scores(micro.batch, micro.take(tokens)).logprobs.cpu()
                result[micro.rows, : scored.shape[1]] = scored
        return result

    def _step(self, batch: Batch, tokens: Tensor, loss: Loss) -> Step:
        """Accumulate the gradient over micro-batches, then one optimiser step."""
        total = 0.0
        with _determinism(self._deterministic):
            for micro in batch.micro_batches(self._micro_tokens, tokens):
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


@contextmanager
def _determinism(enabled: bool) -> Generator[None]:
    """torch's deterministic algorithms inside the block; the process keeps its own setting."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


__all__ = ["TorchLearner"]
