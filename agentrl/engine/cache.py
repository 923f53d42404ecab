"""Preallocated keys and values: one slot per running row, and a stash of finished ones.

Running rows lie in slots 0 .. n-1 without a hole, so that one attention call covers them. A
finished row's keys and values move to the stash, where the next turn of the same episode finds
them by the longest common prefix of its ids; siblings that share a prompt find it in each other.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agentrl.engine.architecture import Architecture
from agentrl.transcript import Int32Array

IntArray: TypeAlias = npt.NDArray[np.int64]

WORTH_KEEPING = 16
"""Rows and shared prefixes shorter than this are recomputed rather than copied, in tokens."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values that some slot holds already."""

    slot: int
    n_tokens: int


class Cache:
    """Keys and values `[layer][slot, position, key | value, kv_head, head_dim]`."""

    def __init__(
        self,
        shape: Architecture,
        *,
        n_running: int,
        n_stashed: int,
        n_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.n_running = n_running
        self.n_positions = n_positions
        n_slots = n_running + n_stashed
        size = (shape.n_layers, n_slots, n_positions, 2, shape.n_kv_heads, shape.head_dim)
        self._store = lazy_zeros(size, dtype, device)
        self.layers = list(self._store)
        self.flat = [layer.view(n_slots * n_positions, -1) for layer in self.layers]
        """The same memory as `[slot x position, 2 kv_heads head_dim]`."""
        self.token_ids = np.full((n_slots, n_positions), -1, np.int32)
        self.lengths = np.zeros(n_slots, np.int64)
        """Positions of each slot whose keys and values are valid."""
        self._used = np.zeros(n_slots, np.int64)
        self._clock = 0

    def record(self, slots: IntArray, positions: IntArray, token_ids: Int32Array) -> None:
        """Note that these positions have been computed; each slot's come in rising order."""
        self.token_ids[slots, positions] = token_ids
        np.maximum.at(self.lengths, slots, positions + 1)

    def find(self, token_ids: Int32Array) -> Prefix | None:
        """The longest valid prefix of a row that any slot holds, its last token left out."""
        n = min(len(token_ids) - 1, self.n_positions)
        held = np.flatnonzero(self.lengths >= WORTH_KEEPING)
        if n < WORTH_KEEPING or not len(held):
            return None
        limit = min(n, int(self.lengths[held].max()))
        same = self.token_ids[held, :limit] == token_ids[:limit]
        common = np.where(same.all(1), limit, same.argmin(1))
        common = np.minimum(common, self.lengths[held])
        best = int(common.argmax())
        if common[best] < WORTH_KEEPING:
            return None
        return Prefix(int(held[best]), int(common[best]))

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Make the first `n_tokens` of one slot those of another."""
        if source != target:
            self._store[:, target, :n_tokens] = self._store[:, source, :n_tokens]
            self.token_ids[target, :n_tokens] = self.token_ids[source, :n_tokens]
        self.lengths[target] = n_tokens
        if source >= self.n_running and target < self.n_running:
            if n_tokens == self.lengths[source]:
                self.release(source)  # the target holds all of it
            else:
                self._touch(source)

    def stash(self, slot: int) -> None:
        """Keep a finished row's keys and values in the least recently used place of the stash."""
        n_tokens = int(self.lengths[slot])
        if n_tokens < WORTH_KEEPING or len(self.lengths) == self.n_running:
            return
        target = self.n_running + int(self._used[self.n_running :].argmin())
        self.copy(slot, target, n_tokens)
        self._touch(target)

    def release(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.lengths[slot] = 0
        self._used[slot] = 0

    def clear(self) -> None:
        """Forget everything: the weights have changed."""
        self.lengths[:] = 0
        self._used[:] = 0

    def _touch(self, slot: int) -> None:
        self._clock += 1
        self._used[slot] = self._clock


def lazy_zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose pages the system hands out when first written, on a CPU; page-aligned.

    Masked positions take part in attention with weight 0, so they must be finite.
    """
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    n_bytes = int(np.prod(size)) * dtype.itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return torch.frombuffer(mmap.mmap(-1, n_bytes, flags=flags), dtype=dtype).view(size)
