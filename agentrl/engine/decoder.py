"""The forward pass of Qwen2, Qwen3 and Llama over a flat batch of tokens.

A step's tokens, decoded ones and pieces of prompts alike, form one batch [n]; linear layers see
them together, attention sees each row's own cache. Every operation acts on rows independently,
which is what makes a row's bits independent of its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agentrl.engine.attention import Span, attend, attend_prompt, masks
from agentrl.engine.cache import Cache, IntArray
from agentrl.engine.linear import MIN_ROWS
from agentrl.engine.weights import LayerWeights, Weights
from agentrl.transcript import Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class FlatBatch:
    """The tokens of one step."""

    token_ids: Int32Array
    """Shape [n]."""
    slots: IntArray
    """Shape [n]: the cache slot of each token's row."""
    positions: IntArray
    """Shape [n]."""
    spans: list[Span]
    """Attention calls; together they cover the batch."""
    wanted: IntArray
    """Shape [m]: indices of the tokens whose logits are needed."""


class _Step(NamedTuple):
    """What every layer of one step shares."""

    rotation: Tensor
    where: Tensor
    spans: list[Span]
    masks: list[Tensor]
    n: int


class Decoder:
    """Weights and cache put to work."""

    def __init__(
        self, weights: Weights, cache: Cache, rotations: Tensor, *, heads_per_call: int | None
    ) -> None:
        self.weights, self.cache = weights, cache
        self._rotations = rotations.to(weights.device)
        self._heads_per_call = heads_per_call
        """None: not deterministic; prompts are computed by one causal call."""

    def logits(self, batch: FlatBatch) -> Tensor:
        """Run a batch, extend the cache, return logits [m, vocab] in float32."""
        weights, n = self.weights, len(batch.token_ids)
        device, padding = weights.device, max(0, MIN_ROWS - n)
        ids = torch.from_numpy(np.pad(batch.token_ids, (0, padding)).astype(np.int64)).to(device)
        positions = torch.from_numpy(np.pad(batch.positions, (0, padding))).to(device)
        where = torch.from_numpy(batch.slots * self.cache.n_positions + batch.positions).to(device)
        step = _Step(
            self._rotations[positions][:, None],
            where,
            batch.spans,
            masks(batch.spans, positions, self.cache.n_positions, weights.dtype),
            n,
        )
        x = F.embedding(ids, weights.embedding)
        for index, layer in enumerate(weights.layers):
            x = self._layer(index, layer, x, step)
        self.cache.record(batch.slots, batch.positions, batch.token_ids)
        missing = max(0, MIN_ROWS - len(batch.wanted))
        rows = torch.from_numpy(np.pad(batch.wanted, (0, missing))).to(device)
        last = rms_norm(x[rows], weights.norm, weights.shape.eps)
        return weights.head(last)[: len(batch.wanted)].float()

    def _layer(self, index: int, layer: LayerWeights, x: Tensor, step: _Step) -> Tensor:
        eps = self.weights.shape.eps
        mixed = self._attention(index, layer, rms_norm(x, layer.input_norm, eps), step)
        x = x + layer.out(mixed)
        gate_up = layer.gate_up(rms_norm(x, layer.post_norm, eps))
        gate, up = gate_up.chunk(2, -1)
        return x + layer.down(F.silu(gate) * up)

    def _attention(self, index: int, layer: LayerWeights, x: Tensor, step: _Step) -> Tensor:
        s = self.weights.shape
        heads = layer.qkv(x).view(len(x), s.n_heads + 2 * s.n_kv_heads, s.head_dim)
        qk = rotate(
            self._normed(heads[:, : s.n_heads + s.n_kv_heads], layer.qk_norm), step.rotation
        )
        values = heads[: step.n, s.n_heads + s.n_kv_heads :]
        entries = torch.cat((qk[: step.n, s.n_heads :], values), 1).view(step.n, -1)
        self.cache.flat[index].index_copy_(0, step.where, entries)
        group = s.n_heads // s.n_kv_heads
        q = qk[:, : s.n_heads].view(len(x), s.n_kv_heads, group, s.head_dim)
        mixed = x.new_zeros(len(x), s.n_heads * s.head_dim)
        for span, mask in zip(step.spans, step.masks, strict=True):
            mine = q[span.start : span.stop]
            if self._heads_per_call is None and span.shared:
                part = attend_prompt(mine, self.cache.layers[index], span, mask)
            else:
                per_call = self._heads_per_call or group
                part = attend(mine, self.cache.layers[index], span, mask, per_call)
            mixed[span.start : span.stop] = part.reshape(len(mine), -1)
        return mixed

    def _normed(self, heads: Tensor, weight: Tensor | None) -> Tensor:
        return heads if weight is None else rms_norm(heads, weight, self.weights.shape.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (arXiv:1910.07467 eq. 4), in float32."""
    normed = F.rms_norm(x.float(), (x.shape[-1],), None, eps)
    return normed.to(x.dtype) * weight


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Rotary embedding of heads [n, h, d], pairs side by side, by complex factors [n, 1, d / 2]."""
    pairs = heads.float().view(*heads.shape[:-1], -1, 2)
    turned = torch.view_as_real(torch.view_as_complex(pairs) * rotation)
    return turned.flatten(-2).to(heads.dtype)
