"""The critic's regression loss, clipped as PPO clips it."""

from __future__ import annotations

import torch
from torch import Tensor

from agentrl.errors import UserError


def value_losses(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None = 0.2
) -> Tensor:
    """max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2) / 2 per token, shape of the inputs.

    The value clip of PPO's first implementation (OpenAI baselines; 1707.06347 does not state it),
    with the factor 1/2; to be aggregated by the caller. The gradient is v - R, and 0 where the
    clipped branch is the larger. `clip` None is plain regression.
    """
    if clip is not None and not clip > 0:
        raise UserError(f"the value clip is above 0, not {clip}; null leaves values unclipped")
    errors = (values - returns).square()
    if clip is None:
        return errors / 2
    near = old_values + (values - old_values).clamp(-clip, clip)
    bounded = (near - returns).square()
    return torch.where(bounded > errors, bounded, errors) / 2


__all__ = ["value_losses"]
