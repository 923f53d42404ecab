"""Surrogates beside PPO's (`agentrl.algo.loss.Clip`), one file each.

| name | gradient of the loss by logp_t | paper |
|---|---|---|
| clip | -A rho, 0 where clipped | PPO 1707.06347, equation 7 |
| gppo | -A rho, -A (1 +- bound) where clipped | Klear-Reasoner 2508.07629 |
| aepo | -A rho, -A (1 + high) where clipped above, 0 below | AEPO 2510.14545, section 4.2 |
| cispo | -A clip(rho), everywhere | MiniMax-M1 2506.13585, equation 4 |
| gspo | -A s / n over the row's n tokens, 0 where clipped | GSPO 2507.18071, equation 5 |
| sequence_ratio | the same with the product of the token ratios | AdaptThink 2505.13417 |
| reinforce | -A rho | ReLIFT 2506.07527, code |
| oreal | -A for A > 0, -A rho / 2 otherwise | OREAL 2502.06781 |
| shaped | clip's; -A gamma pi / (pi + gamma)^2 on tokens placed for certain | LUFFY 2504.14945 |
"""

from __future__ import annotations

from agentrl.algo.losses.aepo import balanced_clip
from agentrl.algo.losses.cispo import CISPO
from agentrl.algo.losses.gppo import GPPO
from agentrl.algo.losses.gspo import GSPO
from agentrl.algo.losses.oreal import OREAL
from agentrl.algo.losses.reinforce import Reinforce
from agentrl.algo.losses.sequence_ratio import SequenceRatio
from agentrl.algo.losses.shaped import Shaped

__all__ = [
    "CISPO",
    "GPPO",
    "GSPO",
    "OREAL",
    "Reinforce",
    "SequenceRatio",
    "Shaped",
    "balanced_clip",
]
