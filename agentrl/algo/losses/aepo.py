"""AEPO's clip: what is clipped above keeps its gradient, what is clipped below loses it."""

from __future__ import annotations

from agentrl.algo.losses.gppo import GPPO


def balanced_clip(*, low: float = 0.2, high: float = 0.2) -> GPPO:
    """Entropy-balanced clipping (AEPO, 2510.14545, section 4.2), one side of GPPO's.

    L = -min(rho A, clip(rho, 1 - low, (1 + high) rho / sg(rho)) A): the value is PPO's; where
    rho > 1 + high and A > 0 the slope d L / d logp is -A (1 + high) instead of 0. The paper means it
    for uncertain tokens, whose ratios move most; like the released code it serves every token.
    """
    return GPPO(low=low, high=high, low_scale=0.0, high_scale=1.0)


__all__ = ["balanced_clip"]
