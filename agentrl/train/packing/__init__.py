"""Shared prefixes in training: a learner's forward computes each of them once.

Trees exist here and nowhere else: flat [B, T] batches come in, flat [B, T] scores go out.
"""

from __future__ import annotations

from agentrl.train.packing.cuts import input_lengths, shared_micro_batches
from agentrl.train.packing.pack import Packed, pack
from agentrl.train.packing.sharing import forest_states, use_forest

__all__ = [
    "Packed",
    "forest_states",
    "input_lengths",
    "pack",
    "shared_micro_batches",
    "use_forest",
]
