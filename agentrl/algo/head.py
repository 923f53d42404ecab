"""Token logprobs and entropies straight from hidden states, without materialising the logits.

The output layer is applied to a few tokens at a time. When more than one piece is needed, the
backward pass computes each piece's logits again instead of keeping them, so that temporaries are
bounded by `CHUNK_ELEMENTS` whatever the number of tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits (tokens x vocabulary) held at once; 64 MiB in fp32."""


class HeadScores(NamedTuple):
    """Of N tokens."""

    logprobs: Tensor
    """[N]."""
    entropies: Tensor
    """[N], in nats."""


def head_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperatures: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> HeadScores:
    """Score `targets` under softmax((hidden weight^T + bias) / temperature).

    `hidden` [N, H], `weight` [V, H], `bias` [V] or None, `targets` i64 [N], `temperatures` [N].
    Matrix products run in `dtype`, the softmax in fp32 or wider. Differentiable in the first three.
    """
    logprobs, entropies = cast(
        tuple[Tensor, Tensor],
        _HeadScores.apply(  # pyright: ignore[reportUnknownMemberType] (torch leaves it untyped)
            hidden, weight, bias, targets, temperatures, dtype, chunk_elements
        ),
    )
    return HeadScores(logprobs, entropies)


def _scaled_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperatures: Tensor
) -> Tensor:
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.div_(temperatures[:, None].to(wide.dtype))


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperatures: Tensor,
        dtype: torch.dtype,
        chunk_elements: int,
    ) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies [N] of the targets, the logits of a few at a time."""
        ctx.set_materialize_grads(False)
        cast_weight = weight.to(dtype)
        step = max(1, chunk_elements // weight.shape[0])
        log_z_parts: list[Tensor] = []
        logprob_parts: list[Tensor] = []
        entropy_parts: list[Tensor] = []
        kept: Tensor | None = None
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            logits = _scaled_logits(hidden[part].to(dtype), cast_weight, bias, temperatures[part])
            log_z = logits.logsumexp(-1)
            log_z_parts.append(log_z)
            logprob_parts.append(logits.gather(-1, targets[part, None])[:, 0] - log_z)
            kept = logits if len(targets) <= step and any(ctx.needs_input_grad) else None
            probabilities = (logits - log_z[:, None]).exp_()
            entropy_parts.append(log_z - probabilities.mul_(logits).sum(-1))
        log_z, logprobs, entropies = (
            torch.cat(parts) if parts else hidden.new_zeros(0)
            for parts in (log_z_parts, logprob_parts, entropy_parts)
        )
        ctx.save_for_backward(hidden, weight, bias, targets, temperatures, log_z, entropies, kept)
        ctx.dtype, ctx.step = dtype, step
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of hidden states, weight and bias; logits that were not kept are made again."""
        grad_logprobs, grad_entropies = grads
        hidden, weight, bias, targets, temperatures, log_z, entropies, kept = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        cast_weight = weight.to(ctx.dtype)
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if bias is not None and needs_bias else None
        for start in range(0, len(targets), ctx.step):
            part = slice(start, start + ctx.step)
            inputs = hidden[part].to(ctx.dtype)
            logits = (
                _scaled_logits(inputs, cast_weight, bias, temperatures[part])
                if kept is None
                else kept.clone()
            )
            slope = _logit_gradient(
                logits,
                targets[part],
                log_z[part],
                entropies[part],
                None if grad_logprobs is None else grad_logprobs[part],
                None if grad_entropies is None else grad_entropies[part],
            )
            slope = slope.div_(temperatures[part, None].to(slope.dtype))
            if grad_bias is not None:
                grad_bias += slope.sum(0).to(grad_bias.dtype)
            slope = slope.to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = (slope @ cast_weight).to(hidden.dtype)
            if grad_weight is not None and grad_weight.dtype == slope.dtype:
                # In place: a product of its own would be as large as the layer.
                grad_weight.addmm_(slope.T, inputs)
            elif grad_weight is not None:
                grad_weight += (slope.T @ inputs).to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _logit_gradient(
    logits: Tensor,
    targets: Tensor,
    log_z: Tensor,
    entropies: Tensor,
    grad_logprobs: Tensor | None,
    grad_entropies: Tensor | None,
) -> Tensor:
    """d logprob / dz = onehot - p; d entropy / dz = -p (log p + H). Overwrites `logits`.

    Two buffers of their size are all there ever is: large vocabularies make each one expensive.
    """
    log_p = logits.sub_(log_z[:, None])
    p = log_p.exp()
    if grad_entropies is None:
        slope = log_p.zero_()
    else:
        slope = log_p.add_(entropies[:, None]).mul_(p).mul_(-grad_entropies[:, None])
    if grad_logprobs is not None:
        slope.sub_(p.mul_(grad_logprobs[:, None]))
        slope.scatter_add_(1, targets[:, None], grad_logprobs[:, None])
    return slope


__all__ = ["CHUNK_ELEMENTS", "HeadScores", "head_scores"]
