"""Rows as a prefix forest: what several rows begin with is laid out once.

Rows are put in the order of their ids, so that everything a row has in common with any earlier one it
has in common with the one before it. Each row then adds only its tail, the tails stand behind one
another, and whatever continues a piece follows it without a gap. That last property is what the
attention relies on: the queries that may see a piece of the layout are one slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

MIN_SHARED = 8
"""Fewest tokens for which a new branching point is made: a piece costs a kernel call per layer."""


class Span(NamedTuple):
    """A piece of the layout that is shared as a whole, and who continues it."""

    start: int
    """Its first token."""
    stop: int
    """Behind its last token."""
    end: int
    """Behind the last token of all that continues it; those tokens see the whole piece."""


class Ordered(NamedTuple):
    """Rows in the order of their ids."""

    rows: Indices
    """[b]: row numbers; equal rows by number."""
    common: Indices
    """[b]: leading ids each has in common with the row before it; 0 for the first."""


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """N tokens that stand for all the rows."""

    token_ids: Indices
    """[N]."""
    positions: Indices
    """[N]: each token's place in the rows that hold it."""
    places: Indices
    """[b, T]: where each row's token t is in the layout; 0 behind a row's end."""
    levels: tuple[tuple[Span, ...], ...]
    """Pieces by how many others they continue; those of a level do not overlap."""

    def __len__(self) -> int:
        return len(self.token_ids)


class Growth:
    """The branching points of a forest while its rows come, in the order of their ids."""

    def __init__(self, min_shared: int = MIN_SHARED) -> None:
        self._min_shared = min_shared
        self._cuts: list[int] = [0]

    def shared(self, common: int) -> int:
        """Leading tokens of the next row that the layout already holds, given those it has in
        common with the row before: all of them, or up to a branching point not far back."""
        before = max(cut for cut in self._cuts if cut <= common)
        return common if common - before >= self._min_shared else before

    def add(self, shared: int, length: int) -> None:
        """Take in a row of `length` tokens that branches off after `shared`."""
        kept = {cut for cut in self._cuts if cut < shared}
        self._cuts = sorted(kept | {0, shared, length})


def ordered(token_ids: Indices, lengths: Indices) -> Ordered:
    """Order rows of ids [b, T] by their first `lengths` [b] ids, a prefix before what continues it."""
    big_endian = token_ids.astype(">u4")
    keys = [big_endian[row, :n].tobytes() for row, n in enumerate(lengths)]
    rows = np.array(sorted(range(len(keys)), key=lambda row: (keys[row], row)), dtype=np.int64)
    if not len(rows):
        return Ordered(rows, rows)
    ids, sizes = token_ids[rows], lengths[rows]
    differs = np.ones((len(rows) - 1, ids.shape[1] + 1), dtype=np.bool_)
    shorter: Indices = np.minimum(sizes[1:], sizes[:-1])
    differs[:, :-1] = ids[1:] != ids[:-1]
    differs[:, :-1] |= np.arange(ids.shape[1]) >= shorter[:, None]
    return Ordered(rows, np.concatenate([[0], differs.argmax(1)]))


def forest(token_ids: Indices, lengths: Indices, *, min_shared: int = MIN_SHARED) -> Forest:
    """The forest of rows of ids [b, T], each cut to `lengths` [b] (at least 1)."""
    order = ordered(token_ids, lengths)
    growth = Growth(min_shared)
    places = np.zeros(token_ids.shape, dtype=np.int64)
    pieces = _Pieces()
    kept: list[Indices] = []
    positions: list[Indices] = []
    size, previous = 0, 0
    for row, common in zip(order.rows, order.common, strict=True):
        length = int(lengths[row])
        shared = growth.shared(int(common))
        growth.add(shared, length)
        pieces.add(shared, length, size)
        places[row, :shared] = places[previous, :shared]
        places[row, shared:length] = np.arange(size, size + length - shared)
        kept.append(token_ids[row, shared:length])
        positions.append(np.arange(shared, length))
        size, previous = size + length - shared, int(row)
    return Forest(np.concatenate(kept), np.concatenate(positions), places, pieces.levels(size))


class _Piece:
    """A piece whose continuations are not all known yet."""

    __slots__ = ("depth", "end", "level", "start", "stop")

    def __init__(self, depth: int, start: int, stop: int) -> None:
        self.depth, self.start, self.stop = depth, start, stop
        self.end = self.level = -1


class _Pieces:
    """Cuts tails into pieces as later rows branch off inside them."""

    def __init__(self) -> None:
        self._all: list[_Piece] = []
        self._path: list[_Piece] = []

    def add(self, shared: int, length: int, size: int) -> None:
        """A row whose tail [shared, length) is laid out from `size` on."""
        path = self._path
        while path and path[-1].depth >= shared:
            path.pop().end = size
        if path and (head := path[-1]).depth + head.stop - head.start > shared:
            middle = head.start + shared - head.depth
            rest = _Piece(shared, middle, head.stop)
            rest.end = size
            head.stop = middle
            self._all.append(rest)
        if length > shared:
            tail = _Piece(shared, size, size + length - shared)
            self._all.append(tail)
            path.append(tail)

    def levels(self, size: int) -> tuple[tuple[Span, ...], ...]:
        """All pieces, once the layout is `size` tokens long."""
        for piece in self._path:
            piece.end = size
        open_ends: list[int] = []
        levels: list[list[Span]] = []
        for piece in sorted(self._all, key=lambda piece: piece.start):
            while open_ends and open_ends[-1] <= piece.start:
                open_ends.pop()
            if len(open_ends) == len(levels):
                levels.append([])
            levels[len(open_ends)].append(Span(piece.start, piece.stop, piece.end))
            open_ends.append(piece.end)
        return tuple(map(tuple, levels))


__all__ = ["MIN_SHARED", "Forest", "Growth", "Indices", "Ordered", "Span", "forest", "ordered"]
