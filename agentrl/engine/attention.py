"""Attention of new tokens over cached keys and values, one canonical computation per token.

Under `deterministic` a token's attention is always the same kernel: at most `heads_per_call`
query rows against keys padded to a multiple of 64, whether the token is decoded, part of a prompt
or scored. Padding then only appends exact zeros to each sum, so the bits depend on the row alone:
`invariant_heads` probes that on the machine at hand. Without it, prompts use one causal call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agentrl.engine.architecture import Architecture

KEY_BLOCK = 64
"""Keys are read in multiples of this many positions."""

PROBED_LENGTHS = (1, 3, 63, 64, 70, 129, 250, 300, 511, 512, 600, 1030)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of the flat batch that one attention call serves."""

    start: int
    stop: int
    slot: int
    shared: bool
    """True: all tokens belong to `slot` (a prompt). False: token i belongs to slot + i - start."""
    n_keys: int
    """Longest context among the tokens, itself included."""

    @property
    def padded(self) -> int:
        """`n_keys` rounded up to whole blocks of `KEY_BLOCK`."""
        return -(-self.n_keys // KEY_BLOCK) * KEY_BLOCK


def masks(
    spans: list[Span], positions: Tensor, n_positions: int, dtype: torch.dtype
) -> list[Tensor]:
    """Additive masks [n, 1, 1, keys] per span: 0 up to each token's own position, then -inf."""
    found: list[Tensor] = []
    for span in spans:
        keys = torch.arange(min(span.padded, n_positions), device=positions.device)
        beyond = keys > positions[span.start : span.stop, None]
        zeros = torch.zeros(beyond.shape, dtype=dtype, device=positions.device)
        found.append(zeros.masked_fill_(beyond, float("-inf"))[:, None, None])
    return found


def attend(q: Tensor, layer: Tensor, span: Span, mask: Tensor, heads_per_call: int) -> Tensor:
    """Attention of one span.

    q: [n, kv_heads, group, head_dim]; layer: one layer's cache; mask: [n, 1, 1, keys].
    Returns [n, kv_heads, group, head_dim].
    """
    n, n_keys, group = q.shape[0], mask.shape[-1], q.shape[2]
    if span.shared:
        cached = layer[span.slot : span.slot + 1, :n_keys].expand(n, -1, -1, -1, -1)
    else:
        cached = layer[span.slot : span.slot + n, :n_keys]
    k, v = cached[:, :, 0].transpose(1, 2), cached[:, :, 1].transpose(1, 2)
    if group <= heads_per_call:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    parts = [
        F.scaled_dot_product_attention(q[:, :, i : i + heads_per_call], k, v, attn_mask=mask)
        for i in range(0, group, heads_per_call)
    ]
    return torch.cat(parts, 2)


def attend_prompt(q: Tensor, layer: Tensor, span: Span, mask: Tensor) -> Tensor:
    """The same for a shared span in one causal call; faster, bits depend on how a prompt is cut."""
    n, kv_heads, group, head_dim = q.shape
    cached = layer[span.slot, : mask.shape[-1]]
    k, v = cached[:, 0].transpose(0, 1)[None], cached[:, 1].transpose(0, 1)[None]
    rows = q.permute(1, 2, 0, 3).reshape(1, kv_heads, group * n, head_dim)
    tiled = mask.view(1, 1, n, -1).repeat(1, 1, group, 1)
    mixed = F.scaled_dot_product_attention(rows, k, v, attn_mask=tiled)
    return mixed.view(kv_heads, group, n, head_dim).permute(2, 0, 1, 3)


def invariant_heads(
    shape: Architecture, dtype: torch.dtype, device: torch.device, n_positions: int
) -> int | None:
    """The most query heads per call whose bits ignore padding, neighbours and slots, or None."""
    group = shape.n_heads // shape.n_kv_heads
    for heads in (3, 2, 1):
        if heads <= max(group, 1) or heads == 1:
            n = min(heads, group)
            if _invariant(shape.n_kv_heads, n, shape.head_dim, dtype, device, n_positions):
                return n
    return None


def _invariant(
    kv_heads: int, group: int, head_dim: int, dtype: torch.dtype, device: torch.device, limit: int
) -> bool:
    lengths = [n for n in PROBED_LENGTHS if n <= limit]
    n, n_keys = len(lengths), min(-(-lengths[-1] // KEY_BLOCK) * KEY_BLOCK + KEY_BLOCK, limit)
    generator = torch.Generator().manual_seed(head_dim)
    layer = torch.randn(n, n_keys, 2, kv_heads, head_dim, generator=generator).to(device, dtype)
    q = torch.randn(n, kv_heads, group, head_dim, generator=generator).to(device, dtype)
    positions = torch.tensor(lengths, device=device) - 1
    together = Span(0, n, 0, False, n_keys)
    mixed = attend(q, layer, together, masks([together], positions, n_keys, dtype)[0], group)
    for i, length in enumerate(lengths):
        alone = Span(i, i + 1, i, False, length)
        mask = masks([alone], positions, n_keys, dtype)[0]
        if not torch.equal(attend(q[i : i + 1], layer, alone, mask, group), mixed[i : i + 1]):
            return False
    shared = Span(0, n, n - 1, True, lengths[-1])
    mixed = attend(q, layer, shared, masks([shared], positions, n_keys, dtype)[0], group)
    for i, length in enumerate(lengths):
        alone = Span(i, i + 1, n - 1, True, length)
        mask = masks([alone], positions, n_keys, dtype)[0]
        if not torch.equal(attend(q[i : i + 1], layer, alone, mask, group), mixed[i : i + 1]):
            return False
    return True
