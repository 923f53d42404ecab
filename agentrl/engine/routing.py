"""Where a request goes among replicas: to its longest cached prefix, unless that replica is too busy.

Prefixes are known by a chain of hashes over blocks of ids, as vLLM's own cache knows them, so looking
one up costs one hash per block and no copy of the row is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

BLOCK_TOKENS = 32
MAX_BLOCKS = 1 << 18
"""Least recently used blocks beyond these are forgotten: 8 million tokens."""


class PrefixRouter:
    """Remembers which replica served which prefix last."""

    def __init__(
        self, imbalance: int, *, block_tokens: int = BLOCK_TOKENS, max_blocks: int = MAX_BLOCKS
    ) -> None:
        """imbalance: a replica with more requests in flight than the least busy one and this many
        gets none for its prefixes. block_tokens: shorter prefixes count as none."""
        self._imbalance, self._block, self._max = imbalance, block_tokens, max_blocks
        self._replica_of: OrderedDict[int, int] = OrderedDict()
        """Chain hash of a prefix's blocks -> the replica that served it last."""

    def choose(self, token_ids: Sequence[int], loads: Mapping[int, int]) -> int:
        """The replica for a row, of those in `loads` (replica -> requests in flight).

        The longest known prefix decides; among equally busy replicas the lowest index does.
        """
        least = min(loads.values())
        held = self._holder(token_ids, loads)
        if held is not None and loads[held] <= least + self._imbalance:
            return held
        return min(loads, key=lambda replica: (loads[replica], replica))

    def served(self, replica: int, token_ids: Sequence[int]) -> None:
        """Note that a replica holds the row's whole blocks now."""
        for key in self._chain(token_ids):
            self._replica_of[key] = replica
            self._replica_of.move_to_end(key)
        while len(self._replica_of) > self._max:
            self._replica_of.popitem(last=False)

    def drop(self, replica: int) -> None:
        """Forget what a replica held: it is gone."""
        for key in [key for key, holder in self._replica_of.items() if holder == replica]:
            del self._replica_of[key]

    def forget(self) -> None:
        """Forget everything: the weights have changed, and with them every cache."""
        self._replica_of.clear()

    def __len__(self) -> int:
        """Blocks remembered."""
        return len(self._replica_of)

    def _holder(self, token_ids: Sequence[int], loads: Mapping[int, int]) -> int | None:
        """The replica of the longest known prefix."""
        found: int | None = None
        for key in self._chain(token_ids):
            holder = self._replica_of.get(key)
            if holder is None:
                break
            found = holder if holder in loads else found
        return found

    def _chain(self, token_ids: Sequence[int]) -> Iterator[int]:
        """One hash per whole block, each over the block and the hash before it."""
        key = 0
        for end in range(self._block, len(token_ids) + 1, self._block):
            key = hash((key, tuple(token_ids[end - self._block : end])))
            yield key
