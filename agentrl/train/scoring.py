"""Scoring without a gradient, micro-batch by micro-batch: logprobs of batches and rows, values."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.algo.batch import demo_batch
from agentrl.algo.types import Batch
from agentrl.train.causal_lm import CausalLM
from agentrl.transcript import Float32Array, Origin, Segment, Transcript, floats_array, ids_array


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a learner reads a batch."""

    micro_tokens: int
    """Tokens of one forward pass, shared prefixes once, padding included."""
    deterministic: bool
    """Only torch's deterministic algorithms."""

    @torch.no_grad()
    def logprobs(self, lm: CausalLM, batch: Batch, tokens: Tensor) -> Tensor:
        """f32 [B, T] on the CPU, 0 off `tokens` (bool [B, T])."""
        result = torch.zeros(batch.token_ids.shape)
        with determinism(self.deterministic):
            for micro in lm.micro_batches(batch, self.micro_tokens, tokens):
                scored = lm.scores(micro.batch, micro.take(tokens)).logprobs.cpu()
                result[micro.rows, : scored.shape[1]] = scored
        return result

    @torch.no_grad()
    def values(self, lm: CausalLM, batch: Batch) -> Tensor:
        """f32 [B, T] on the CPU: the value head's values at masked tokens, 0 elsewhere."""
        result = torch.zeros(batch.token_ids.shape)
        with determinism(self.deterministic):
            for micro in lm.micro_batches(batch, self.micro_tokens):
                found = lm.values(micro.batch, micro.batch.mask).cpu()
                result[micro.rows, : found.shape[1]] = found
        return result

    def rows(
        self, lm: CausalLM, rows: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[Float32Array]:
        """Logprobs [t] of fixed rows; entry 0, which has no context, is 0.0."""
        made = [
            Transcript().append(Segment(Origin.PROMPT, ids_array(row), temperature=temperature))
            for row in rows
        ]
        batch = demo_batch(made, pad_id=lm.pad_id)
        tokens = batch.attention_mask.clone()
        tokens[:, 0] = False
        scored = self.logprobs(lm, batch, tokens)
        return [
            floats_array(values[: len(row)].numpy())
            for values, row in zip(scored, rows, strict=True)
        ]


@contextmanager
def determinism(enabled: bool) -> Generator[None]:
    """torch's deterministic algorithms inside the block; the process keeps its own setting."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


__all__ = ["Scoring", "determinism"]
