"""Causal attention over a prefix forest: every piece once, for all that continues it.

In the layout of `agentrl.train.packing.forest` the tokens that see a piece are one slice: the piece
itself and what follows until its end. So a piece costs one rectangular causal attention, queries
[start, end) against keys [start, stop), and no mask is ever made. Partial results are merged by their
log-sum-exp, as FlashDecoding does; the backward pass of a part under the merged log-sum-exp is that
part of the whole gradient (Ring Attention, 2310.01889), so each key's gradient comes from one call.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from agentrl.train.packing.forest import Span

Levels = tuple[tuple[Span, ...], ...]
"""`Forest.levels`."""

SCORES = 1 << 24
"""Attention scores the portable kernel holds at once."""


class Part(NamedTuple):
    """Attention to some of the keys."""

    out: Tensor
    """[K, G, L, D]: normalised over these keys alone."""
    lse: Tensor
    """f32 [K, G, L]: log-sum-exp of the scores."""


class PartGrads(NamedTuple):
    """Of one part."""

    query: Tensor
    """[K, G, L, D]."""
    key: Tensor
    """[K, S, D]: summed over the G heads that share it."""
    value: Tensor
    """[K, S, D]."""


def forest_attention(
    query: Tensor, key: Tensor, value: Tensor, levels: Levels, scale: float
) -> Tensor:
    """Attention of N packed tokens: [H, N, D] from queries [H, N, D], keys and values [K, N, D].

    H is a multiple of K. A token sees the pieces it continues, and of its own what is before it.
    """
    n_groups = query.shape[0] // key.shape[0]
    grouped = query.view(key.shape[0], n_groups, *query.shape[1:])
    out = _ForestAttention.apply(grouped, key, value, levels, scale)  # pyright: ignore
    return cast(Tensor, out).flatten(0, 1)


class _ForestAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, levels: Levels, scale: float
    ) -> Tensor:
        """[K, G, N, D]; kept in memory as [N, K, G, D], which is what the next layer reads."""
        n_keys, n_groups, n_tokens, _ = query.shape
        shape = (n_tokens, n_keys, n_groups, value.shape[-1])
        wide = torch.promote_types(query.dtype, torch.float32)
        out = query.new_zeros(shape, dtype=wide).permute(1, 2, 0, 3)
        lse = query.new_zeros(shape[:3], dtype=wide).permute(1, 2, 0)
        for depth, spans in enumerate(levels):
            low, high = spans[0].start, max(span.end for span in spans)
            into = Part(out[:, :, low:high], lse[:, :, low:high])
            if depth:
                into = Part(torch.zeros_like(into.out), torch.full_like(into.lse, -torch.inf))
            for span in spans:
                start, stop, end = span
                found = part(
                    query[:, :, start:end], key[:, start:stop], value[:, start:stop], scale
                )
                into.out[:, :, start - low : end - low] = found.out
                into.lse[:, :, start - low : end - low] = found.lse
            if depth:
                _merge(Part(out[:, :, low:high], lse[:, :, low:high]), into)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.levels, ctx.scale = levels, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Each piece's keys get their gradient from the one call that reads them."""
        query, key, value, out, lse = ctx.saved_tensors
        grad_query = torch.zeros_like(query, dtype=lse.dtype)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for start, stop, end in (span for spans in ctx.levels for span in spans):
            rows = slice(start, end)
            found = part_grads(
                grads[0][:, :, rows],
                query[:, :, rows],
                key[:, start:stop],
                value[:, start:stop],
                Part(out[:, :, rows], lse[:, :, rows]),
                ctx.scale,
            )
            grad_query[:, :, rows] += found.query
            grad_key[:, start:stop], grad_value[:, start:stop] = found.key, found.value
        return grad_query.to(query.dtype), grad_key, grad_value, None, None


def _merge(into: Part, other: Part) -> None:
    """Attention to the keys of both, in place; a log-sum-exp of -inf saw no key."""
    total = torch.logaddexp(into.lse, other.lse)
    into.out.mul_((into.lse - total).exp_()[..., None])
    into.out.addcmul_(other.out, (other.lse - total).exp_()[..., None])
    into.lse.copy_(total)


def part(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Part:
    """Causal attention of queries [K, G, L, D] to the keys [K, S, D] of the first S <= L of them."""
    if not _has_kernel(query, key, value):
        return portable_part(query, key, value, scale)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, _heads(key, query), _heads(value, query), 0.0, True, scale=scale
    )
    return Part(out, lse)


def part_grads(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Part, scale: float
) -> PartGrads:
    """What `part` contributes to the gradient, given the merged result over all keys."""
    if not _has_kernel(query, key, value):
        return portable_part_grads(grad, query, key, value, whole, scale)
    found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad,
        query,
        _heads(key, query),
        _heads(value, query),
        whole.out,
        whole.lse,
        0.0,
        True,
        scale=scale,
    )
    return PartGrads(found[0], found[1].sum(1), found[2].sum(1))


def _has_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """torch's fused CPU kernel, whose log-sum-exp is at hand and whose causal mask is top-left."""
    return query.device.type == "cpu" and query.dtype == key.dtype and key.shape == value.shape


def _heads(key: Tensor, query: Tensor) -> Tensor:
    """Keys [K, S, D] as [K, G, S, D], without a copy."""
    return key[:, None].expand(-1, query.shape[1], -1, -1)


def portable_part(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Part:
    """`part` in plain torch, for devices without a kernel: bounded scores at a time."""
    parts: list[Part] = []
    for rows in _slices(query, key):
        scores = _scores(query[:, :, rows], key, rows.start, scale)
        lse = scores.logsumexp(-1)
        weights = (scores - lse[..., None]).exp_().to(value.dtype)
        parts.append(Part(weights @ value[:, None], lse))
    return Part(torch.cat([p.out for p in parts], 2), torch.cat([p.lse for p in parts], 2))


def portable_part_grads(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Part, scale: float
) -> PartGrads:
    """`part_grads` in plain torch."""
    grad_query = torch.zeros_like(query)
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    for rows in _slices(query, key):
        own, slope = query[:, :, rows], grad[:, :, rows]
        weights = (_scores(own, key, rows.start, scale) - whole.lse[:, :, rows, None]).exp_()
        delta = (slope * whole.out[:, :, rows]).sum(-1, keepdim=True, dtype=weights.dtype)
        grad_value += (weights.to(value.dtype).mT @ slope).sum(1)
        inner = weights.mul_((slope @ value[:, None].mT) - delta).mul_(scale).to(query.dtype)
        grad_query[:, :, rows] = inner @ key[:, None]
        grad_key += (inner.mT @ own).sum(1)
    return PartGrads(grad_query, grad_key, grad_value)


def _scores(query: Tensor, key: Tensor, first: int, scale: float) -> Tensor:
    """Scaled scores [K, G, L, S] in fp32 or wider, -inf where the key is later; `first`: row 0."""
    scores = (query @ key[:, None].mT).to(torch.promote_types(query.dtype, torch.float32))
    rows = torch.arange(first, first + query.shape[2], device=query.device)
    later = torch.arange(key.shape[1], device=query.device) > rows[:, None]
    return scores.mul_(scale).masked_fill_(later, -torch.inf)


def _slices(query: Tensor, key: Tensor) -> list[slice]:
    """Query rows in steps of at most `SCORES` scores."""
    step = max(1, SCORES // (query.shape[0] * query.shape[1] * key.shape[1]))
    n_rows = query.shape[2]
    return [slice(first, min(first + step, n_rows)) for first in range(0, n_rows, step)]


__all__ = [
    "Levels",
    "Part",
    "PartGrads",
    "forest_attention",
    "part",
    "part_grads",
    "portable_part",
    "portable_part_grads",
]
