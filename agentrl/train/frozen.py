"""The models beside the policy that are scored and never trained: reference and teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from agentrl.algo.types import Batch
from agentrl.errors import UserError
from agentrl.points import ScoredModel
from agentrl.train.causal_lm import CausalLM

Score = Callable[[CausalLM, Batch], Tensor]
"""A model and a batch -> logprobs [B, T] of the masked tokens."""


class FrozenModels:
    """A reference, which starts as the policy and may follow it, and a teacher from elsewhere."""

    def __init__(self, policy: CausalLM, teacher: CausalLM | None) -> None:
        """Raises UserError when the teacher has another vocabulary than the policy."""
        self._policy = policy
        self.reference: CausalLM | None = None
        self._teacher = teacher
        if teacher is not None and teacher.vocab_size != policy.vocab_size:
            raise UserError(
                f"learner.teacher has {teacher.vocab_size} tokens and the policy {policy.vocab_size}; "
                "a teacher scores the policy's own tokens, so it needs the same vocabulary"
            )

    def snapshot_reference(self) -> None:
        """The reference becomes the policy as it is."""
        self.reference = copy.copy(self._policy)
        self.reference.value_head = None
        self.reference.model = copy.deepcopy(self._policy.model).requires_grad_(False)

    @torch.no_grad()
    def move_reference(self, rate: float) -> None:
        """The reference becomes (1 - rate) policy + rate reference. Raises UserError without one."""
        # `parameters` gives tied weights once; moved under each name they would move twice.
        reference = self.of("ref").model.parameters()
        for old, new in zip(reference, self._policy.model.parameters(), strict=True):
            old.lerp_(new, 1 - rate)

    def of(self, model: ScoredModel) -> CausalLM:
        """The model of that name. Raises UserError when it is not held."""
        found = {"policy": self._policy, "ref": self.reference, "teacher": self._teacher}[model]
        if found is None:
            setting = "reference=true" if model == "ref" else "teacher=<model>"
            raise UserError(f"there is no {model} model to score with; set learner.{setting}")
        return found

    def prepared(self, batch: Batch, score: Score) -> Batch:
        """The batch with the logprobs of the models that are held and not yet in it."""
        if self.reference is not None and batch.ref_logprobs is None:
            batch = replace(batch, ref_logprobs=score(self.reference, batch))
        if self._teacher is not None and batch.teacher_logprobs is None:
            batch = replace(batch, teacher_logprobs=score(self._teacher, batch))
        return batch


__all__ = ["FrozenModels", "Score"]
