"""Shared prefixes in training: a learner's forward computes each of them once.

Trees exist here and nowhere else: flat [B, T] batches come in, flat [B, T] scores go out.
"""

from __future__ import annotations

from agentrl.train.packing.cuts import shared_micro_batches
from agentrl.train.packing.pack import Packed, pack
from agentrl.train.packing.sharing import forest_states, use_forest
from agentrl.train.packing.wanted import Tally, Wanted

__all__ = [
    "Packed",
    "Tally",
    "Wanted",
    "forest_states",
    "pack",
    "shared_micro_batches",
    "use_forest",
]
